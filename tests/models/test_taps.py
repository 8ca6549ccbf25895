from __future__ import annotations

import copy
import re

import pytest
import timm
import torch
from torch import nn

from ood_nc.errors import UserError
from ood_nc.models import ControlledModel, TapInfo, list_taps
from ood_nc.models.probing import trace
from ood_nc.models.taps import block_names, stage_names, tappable


class Plain(nn.Module):
    """A network without any of timm's conventions: shared ReLU, a container that never runs, a tuple on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.parts = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)])
        self.pair = Pair()
        self.unused = nn.Conv2d(3, 3, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.relu(self.stem(images))
        for part in self.parts:
            maps = self.relu(part(maps))
        return self.pair(maps)[0]


class Pair(nn.Module):
    """Returns two tensors."""

    def forward(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return maps.mean((2, 3)), maps


def _taps(*patterns: str, model: str | nn.Module = "resnet10t", size: int = 32, **arguments: object) -> ControlledModel:
    return ControlledModel(model, 3, taps=patterns, projector=None, img_size=size, **arguments)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("layer*", ["layer1", "layer2", "layer3", "layer4"]),
        ("layer?", ["layer1", "layer2", "layer3", "layer4"]),
        ("layer[12]", ["layer1", "layer2"]),
        ("layer[!12]", ["layer3", "layer4"]),
        ("layer*.*", ["layer1.0", "layer2.0", "layer3.0", "layer4.0"]),
        ("layer[12].*.conv?", ["layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1", "layer2.0.conv2"]),
        ("layer1.0.bn2", ["layer1.0.bn2"]),
        ("stages", ["act1", "layer1", "layer2", "layer3", "layer4"]),
        ("blocks", ["layer1.0", "layer2.0", "layer3.0", "layer4.0"]),
    ],
)
def test_patterns(pattern: str, expected: list[str]) -> None:
    assert list(_taps(pattern).tap_names) == expected


def test_taps_come_in_depth_order_whatever_the_order_of_the_patterns() -> None:
    model = ControlledModel("resnet10t", 3, taps=("projector", "encoder", "layer3", "layer1.*", "layer1"), img_size=32)
    assert model.tap_names == ("layer1.0", "layer1", "layer3", "encoder", "projector")
    assert [info.depth for info in model.tap_info.values()] == [0, 1, 2, 3, 4]
    assert model.tap_info["layer3"] == TapInfo("layer3", 2, "avg", 256, True)
    assert model.tap_info["encoder"].nonnegative is True
    assert model.tap_info["projector"] == TapInfo("projector", 4, "none", 512, False)
    _, taps = model.forward_taps(torch.randn(2, 3, 32, 32))
    assert list(taps) == list(model.tap_names)


@pytest.mark.parametrize(
    ("name", "word", "first", "count"),
    [
        ("vit_tiny_patch16_224", "stages", "blocks.0", 12),
        ("convnext_atto", "blocks", "stages.0.blocks.0", 12),
        ("regnetx_002", "blocks", "s1.b1", 13),
        ("densenet121", "stages", "features.norm0", 5),
        ("swin_tiny_patch4_window7_224", "blocks", "layers.0.blocks.0", 12),
        ("vgg11", "blocks", "features.0", 8),
    ],
)
def test_words_for_other_families(name: str, word: str, first: str, count: int) -> None:
    model = timm.create_model(name, num_classes=3, **({"mlp_ratio": 1 / 4096} if name == "vgg11" else {}))
    names = tappable(model, trace(model, (3, 224, 224)))
    find = {"stages": stage_names, "blocks": block_names}[word]
    chosen = find(model, names)
    assert (chosen[0], len(chosen)) == (first, count)


def test_a_module_without_timms_conventions() -> None:
    model = _taps("stages", "parts.*", "relu", "encoder", model=Plain(), size=8)
    assert model.tap_names == ("stem", "parts.0", "parts.1", "relu", "encoder")
    assert model.tap_info["relu"].dim == 12, "of a module that runs more than once the last output counts"
    _, taps = model.eval().forward_taps(torch.randn(2, 3, 8, 8))
    torch.testing.assert_close(taps["relu"], taps["encoder"])
    assert (taps["parts.1"] < 0).any(), "the in-place ReLU behind it came later"


def test_numbered_blocks_without_timms_conventions() -> None:
    block = nn.Sequential(nn.Conv2d(3, 3, 1))
    stage = nn.Sequential(Pair(), Wrapper(block), Wrapper(nn.Sequential(nn.Conv2d(3, 3, 1))))
    model = nn.Module()
    model.stage = stage
    assert block_names(model, ["stage.1", "stage.1.inner", "stage.1.inner.0", "stage.2", "stage"]) == [
        "stage.1",
        "stage.2",
    ]


class Wrapper(nn.Module):
    """A block around something."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("layr1", r"No module of resnet10t is called 'layr1'. Did you mean 'layer1'\?.*ood-nc list taps resnet10t"),
        ("stagez", "Did you mean 'stages'"),
        ("blocks.*", "No module of resnet10t is called"),
        ("fc2", "No module"),
    ],
)
def test_unknown_tap_names_the_nearest(pattern: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        _taps(pattern)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("parts", r"parts itself never runs \(its parts do: parts\.\*\)"),
        ("unused", "unused itself never runs"),
        ("pair", r"the output of pair \(Pair\) is not one tensor"),
        ("unu*", "never runs"),
    ],
)
def test_what_cannot_be_tapped_says_why(pattern: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        _taps(pattern, model=Plain(), size=8)


def test_a_glob_skips_what_cannot_be_tapped() -> None:
    model = _taps("*", model=Plain(), size=8)
    assert model.tap_names == ("stem", "relu")


def test_the_input_of_a_module_is_a_tap_of_its_own() -> None:
    patterns = ("blocks@input", "layer1", "layer*.*.conv?@input", "conv1@input", "encoder")
    model = _taps(*patterns, pooling={"layer1.0.conv2@input": "flatten", "layer1": "flatten"}).eval()
    assert model.tap_names == (
        "conv1@input",
        *("layer1.0@input", "layer1.0.conv1@input", "layer1.0.conv2@input", "layer1"),
        *(f"layer{stage}.0{part}@input" for stage in (2, 3, 4) for part in ("", ".conv1", ".conv2")),
        "encoder",
    )
    given = {}
    for name in ("layer1.0.conv2", "layer2.0"):
        module = model.backbone.get_submodule(name)
        module.register_forward_pre_hook(lambda _, args, name=name: given.update({name: args[0].clone()}))
    images = torch.randn(2, 3, 32, 32)
    _, taps = model.forward_taps(images)
    torch.testing.assert_close(taps["conv1@input"], images.mean((2, 3)))
    torch.testing.assert_close(taps["layer1.0.conv2@input"], given["layer1.0.conv2"].flatten(1))
    torch.testing.assert_close(taps["layer2.0@input"], given["layer2.0"].mean((2, 3)))
    torch.testing.assert_close(taps["layer1"], given["layer2.0"].flatten(1))
    assert [model.tap_info[f"{name}@input"].nonnegative for name in ("conv1", "layer1.0.conv2", "layer2.0")] == [
        None,
        True,
        True,
    ]
    with pytest.raises(UserError, match=r"pooling names 'layer\*'"):
        _taps("layer1@input", pooling={"layer*": "max"})


def test_inputs_of_tokens_and_of_a_module_that_runs_again() -> None:
    tokens = _taps("blocks.1.attn.qkv@input", "stages@input", model="test_vit", size=64).eval()
    assert tokens.tap_info["blocks.1.attn.qkv@input"].pooling == "avg"  # class token left out
    assert sum(name.endswith("@input") for name in tokens.tap_names) == 1 + 6
    plain = _taps("relu@input", "parts.1", "encoder", model=Plain(), size=8).eval()
    assert plain.tap_names == ("parts.1", "relu@input", "encoder")
    _, taps = plain.forward_taps(torch.randn(2, 3, 8, 8))
    torch.testing.assert_close(taps["relu@input"], taps["parts.1"])  # the last time


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("fc9@input", "No module of Plain is called 'fc9'"),
        ("unused@input", "unused itself never runs"),
        ("encoder@input", "No module of Plain is called 'encoder'"),
    ],
)
def test_inputs_that_cannot_be_tapped_say_why(pattern: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        _taps(pattern, model=Plain(), size=8)


def test_windows_are_no_rows() -> None:
    with pytest.raises(UserError, match="is not a row a sample"):
        _taps("layers.0.blocks.0.attn.qkv", model="swin_tiny_patch4_window7_224", size=64)


def test_no_tap_left_is_an_error() -> None:
    with pytest.raises(UserError, match="No tap is left"):
        _taps("projector")


def test_pooling_by_name_glob_and_word() -> None:
    pooling = {"layer1": "max", "layer[23]": "avg2x2", "blocks": "flatten"}
    model = _taps("stages", "blocks", "encoder", pooling=pooling)
    stated = {name: info.pooling for name, info in model.tap_info.items()}
    assert stated == {
        "act1": "avg",
        "layer1.0": "flatten",
        "layer1": "max",
        "layer2.0": "flatten",
        "layer2": "avg2x2",
        "layer3.0": "flatten",
        "layer3": "avg2x2",
        "layer4.0": "flatten",
        "layer4": "avg",
        "encoder": "native",
    }
    assert model.tap_info["layer2"].dim == 4 * 128
    _, taps = model.forward_taps(torch.randn(2, 3, 32, 32))
    assert {name: tap.shape[1] for name, tap in taps.items()} == {n: i.dim for n, i in model.tap_info.items()}


def test_pooling_of_an_unknown_tap_is_an_error() -> None:
    with pytest.raises(UserError, match=r"pooling names 'layer5'.*Did you mean 'layer"):
        _taps("layer*", pooling={"layer5": "max"})


@pytest.mark.parametrize("key", ["encoder", "adapter", "projector", "global_pool", "global_*"])
def test_pooling_of_what_is_a_vector_already_is_an_error(key: str) -> None:
    with pytest.raises(UserError, match=rf"pooling names '{re.escape(key)}', which is a vector already"):
        _taps("layer1", "global_pool", "encoder", pooling={key: "max"})
    model = _taps("layer1", "global_pool", "encoder", pooling={key: "auto", "*": "max"})
    assert [info.pooling for info in model.tap_info.values()] == ["max", "none", "native"]


@pytest.mark.parametrize("word", ["stages", "blocks"])
def test_pooling_by_a_word_that_chose_no_tap_is_an_error(word: str) -> None:
    with pytest.raises(UserError, match=f"pooling names '{word}', which is no tap"):
        _taps("layer1", pooling={word: "max"})


@pytest.mark.parametrize("pooling", ["auto", "max", "flatten", "avg2x2"])
def test_a_later_in_place_operation_changes_nothing(pooling: str) -> None:
    """timm's ReLU behind bn1 works in place: the tap must hold what bn1 put out, in the backward pass too."""
    model = _taps("bn1", "act1@input", "layer1.0.bn1", "encoder", pooling=pooling).train()
    images = torch.randn(4, 3, 32, 32)
    expected = model.backbone.bn1(model.backbone.conv1(images)).detach()
    logits, taps = model.forward_taps(images)
    (logits.sum() + sum(tap.square().sum() for tap in taps.values())).backward()
    reference = {"auto": expected.mean((2, 3)), "max": expected.amax((2, 3)), "flatten": expected.flatten(1)}
    if pooling in reference:
        torch.testing.assert_close(taps["bn1"].detach(), reference[pooling])
        torch.testing.assert_close(taps["act1@input"].detach(), reference[pooling])
    assert (taps["bn1"] < 0).any() or pooling == "max"


def test_taps_have_memory_of_their_own_and_keep_no_feature_map() -> None:
    model = _taps("*", "layer*.*", "layer*.*.*", "encoder").eval()
    with torch.no_grad():
        _, taps = model.forward_taps(torch.randn(2, 3, 32, 32))
    assert len({tap.untyped_storage().data_ptr() for tap in taps.values()}) == len(taps)
    assert all(t.untyped_storage().nbytes() == t.numel() * t.element_size() for t in taps.values())


def test_hooks_are_set_once_and_record_only_for_a_pass_that_asks() -> None:
    model = _taps("layer*", "encoder")
    hooks = [len(module._forward_hooks) for module in model.modules()]
    assert sum(hooks) == 4
    model(torch.randn(2, 3, 32, 32))
    model.forward_taps(torch.randn(2, 3, 32, 32))
    with pytest.raises(RuntimeError):
        model.forward_taps(torch.randn(2, 5, 32, 32))
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert model._recorder.values() is None


class Nested(nn.Module):
    """A backbone that reads the taps of a controlled model inside."""

    def __init__(self, inner: ControlledModel) -> None:
        super().__init__()
        self.inner = inner
        self.outer = nn.Linear(3, 6)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.outer(self.inner.forward_taps(images)[0])


def test_a_pass_inside_a_pass_records_for_itself() -> None:
    inner = _taps("layer*", "encoder").eval()
    outer = ControlledModel(Nested(inner), 3, projector=None, taps=("outer", "inner.backbone.layer1"), img_size=32)
    images = torch.randn(2, 3, 32, 32)
    expected, at_layer1 = inner.forward_taps(images)[0], inner.forward_taps(images)[1]["layer1"]
    _, taps = outer.eval().forward_taps(images)
    torch.testing.assert_close(taps["outer"], outer.backbone.outer(expected))
    torch.testing.assert_close(taps["inner.backbone.layer1"], at_layer1)


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_taps_of_a_checkpointed_backbone_have_the_same_gradients(pooling: str) -> None:
    taps = ("layer*.*", "layer*.*.conv2@input", "encoder")
    plain = ControlledModel("resnet10t", 4, projector=None, taps=taps, pooling=pooling, img_size=32)
    saving = copy.deepcopy(plain)
    saving.backbone.set_grad_checkpointing(True)
    images = torch.randn(4, 3, 32, 32)
    gradients = []
    for model in (plain, saving):
        logits, taps = model.train().forward_taps(images)
        (logits.square().sum() + sum(tap.square().sum() for tap in taps.values())).backward()
        gradients.append({name: value.grad for name, value in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_gradients_flow_from_every_tap() -> None:
    model = _taps("layer*", "encoder")
    _, taps = model.forward_taps(torch.randn(4, 3, 32, 32))
    taps["layer2"].square().sum().backward()
    assert model.backbone.conv1[0].weight.grad.abs().sum() > 0
    assert model.backbone.layer3[0].conv1.weight.grad is None


def test_a_deep_copy_records_into_itself() -> None:
    model = _taps("layer*", "encoder").eval()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.backbone.conv1[0].weight.zero_()
    images = torch.randn(2, 3, 32, 32)
    assert not torch.allclose(model.forward_taps(images)[1]["layer1"], twin.forward_taps(images)[1]["layer1"])


def test_list_taps_agrees_with_the_model() -> None:
    rows = list_taps("resnet10t", img_size=32)
    assert [row.depth for row in rows] == list(range(len(rows)))
    model = _taps("layer1.0", "layer1.0.bn1", "encoder")
    by_name = {row.name: row for row in rows}
    for name, info in model.tap_info.items():
        assert (by_name[name].dim, by_name[name].pooling) == (info.dim, info.pooling)
