from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from ood_nc.errors import UserError
from ood_nc.models import ControlledModel, list_backbones, load_weights
from ood_nc.models.backbone import build_encoder

# One of each family, small; the layout is how a plain hook's output is averaged below.
FAMILIES = [
    ("resnet10t", 64, "nchw"),
    ("vit_tiny_patch16_224", 64, "tokens"),
    ("gmlp_ti16_224", 64, "tokens"),
    ("convnext_atto", 64, "nchw"),
    ("vgg11_bn", 64, "nchw"),
    ("tf_efficientnet_lite0", 64, "nchw"),
    ("regnetx_002", 64, "nchw"),
    ("mobilenetv3_small_050", 64, "nchw"),
    ("swin_tiny_patch4_window7_224", 64, "nhwc"),
    ("cifar_resnet20", 32, "nchw"),
    ("xcit_nano_12_p16_224", 64, "tokens"),
]
SLOW_FAMILIES = [
    ("hgnetv2_b0", 64, "nchw"),
    ("ghostnet_050", 64, "nchw"),
    ("densenet121", 64, "nchw"),
    ("dpn48b", 64, "nchw"),
    ("vit_small_patch14_reg4_dinov2", 56, "tokens"),
    ("deit3_small_patch16_224", 64, "tokens"),
    ("caformer_s18", 64, "nchw"),
    ("mambaout_femto", 64, "nhwc"),
    ("resnetv2_50", 64, "nchw"),
    ("mixer_s32_224", 128, "tokens"),
    ("efficientvit_m0", 224, "nchw"),
    ("repghostnet_050", 64, "nchw"),
]

# Where the classifier is more than a linear map, `pre_logits` stops in front of its hidden layer or its norm.
HIDDEN = {"caformer_s18": "head.fc.fc2", "efficientvit_m0": "head.linear"}


def _plain(model: nn.Module, images: torch.Tensor, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """What plain hooks on timm's own model see."""
    seen: dict[str, torch.Tensor] = {}

    def hook(name: str):
        return lambda module, args, output: seen.update({name: output.clone()})

    handles = [model.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    model(images)
    for handle in handles:
        handle.remove()
    return seen


def _pre_logits(name: str, model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What the classifier receives, by timm's own means; of VGG the pooled feature map."""
    if name in HIDDEN:
        seen: list[torch.Tensor] = []
        handle = model.get_submodule(HIDDEN[name]).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        model(images)
        handle.remove()
        return seen[0]
    features = model.forward_features(images)
    return features.mean((2, 3)) if name.startswith("vgg") else model.forward_head(features, pre_logits=True)


def _mean(output: torch.Tensor, layout: str, model: nn.Module) -> torch.Tensor:
    if output.ndim == 2:
        return output
    if layout == "tokens":
        # XCiT appends its class token after these blocks, so there is none to leave out.
        prefix = 0 if type(model).__name__ == "Xcit" else getattr(model, "num_prefix_tokens", 0)
        return output[:, prefix:].mean(1)
    return output.mean((1, 2) if layout == "nhwc" else (2, 3))


@pytest.mark.parametrize(
    ("name", "size", "layout"), [*FAMILIES, *(pytest.param(*row, marks=pytest.mark.slow) for row in SLOW_FAMILIES)]
)
def test_taps_and_logits_equal_those_of_the_untouched_timm_model(
    name: str, size: int, layout: str, tmp_path: Path
) -> None:
    is_vgg = name.startswith("vgg")
    options = {"mlp_ratio": 1 / 4096} if is_vgg else {"img_size": size} if layout == "tokens" or "swin" in name else {}
    reference = timm.create_model(name, num_classes=7, **options)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        reference.train()(torch.randn(8, 3, size, size))  # so that no running statistic is as initialised
    reference.eval()
    torch.save(reference.state_dict(), tmp_path / "weights.pt")
    model = ControlledModel(name, 7, projector=None, taps=("stages", "encoder"), img_size=size)
    load_weights(model, tmp_path / "weights.pt", new_head=is_vgg)
    with torch.no_grad():
        logits, taps = model.eval().forward_taps(images)
        plain = _plain(reference, images, model.tap_names[:-1])
        encoder = _pre_logits(name, reference, images)
        expected_logits = model.head(encoder) if is_vgg else reference(images)
    torch.testing.assert_close(logits, expected_logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(taps["encoder"], encoder.flatten(1), atol=1e-5, rtol=1e-5)
    assert len(plain) == len(model.tap_names) - 1 >= 2
    for tap, output in plain.items():
        torch.testing.assert_close(taps[tap], _mean(output, layout, reference), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "size", "width"),
    [
        ("mobilenetv3_small_100", 32, 1024),
        ("vgg19", 32, 512),
        ("hgnetv2_b0", 32, 2048),
        ("ghostnet_100", 32, 1280),
        ("resnet18", 32, 512),
        ("vit_tiny_patch16_224", 32, 192),
    ],
)
def test_encoder_width_is_what_the_classifier_receives(name: str, size: int, width: int) -> None:
    model = ControlledModel(name, 5, img_size=size)
    logits, taps = model.forward_taps(torch.randn(2, 3, size, size))
    logits.sum().backward()
    assert model.encoder_dim == model.tap_info["encoder"].dim == taps["encoder"].shape[1] == width
    assert logits.shape == (2, 5)


@pytest.mark.parametrize(("name", "millions"), [("vgg19_bn", 20.1), ("vgg19", 20.1)])
def test_vgg17_has_the_papers_parameter_count(name: str, millions: float) -> None:
    model = ControlledModel(name, 100, img_size=32)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
    assert isinstance(model.backbone.pre_logits, nn.Identity)


def test_a_1x1_convolution_is_a_linear_classifier() -> None:
    given = timm.create_model("dpn48b", num_classes=4)
    classifier = given.classifier
    assert isinstance(classifier, nn.Conv2d)
    head = ControlledModel(given, 4, projector=None, img_size=32).head
    assert isinstance(head, nn.Linear)
    assert torch.equal(head.weight, classifier.weight.flatten(1))
    assert torch.equal(head.bias, classifier.bias)


def test_vgg_can_keep_its_hidden_layers() -> None:
    with torch.device("meta"):
        encoder = build_encoder("vgg11", 5, img_size=32, backbone_options={"keep_hidden_head": True})
    assert encoder.dim == 4096


def test_dtype_and_device_of_a_given_timm_model_are_kept() -> None:
    model = ControlledModel(timm.create_model("mobilenetv3_small_050").double(), 4, img_size=32)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert model.projector.layers[0].weight.dtype == torch.float64
    assert model(torch.randn(2, 3, 32, 32, dtype=torch.float64)).dtype == torch.float64


def test_the_classifier_of_a_given_timm_model_is_taken_over() -> None:
    given = timm.create_model("resnet10t", num_classes=4).eval()
    images = torch.randn(2, 3, 32, 32)
    expected = given(images)
    model = ControlledModel(given, 4, projector=None, img_size=32).eval()
    torch.testing.assert_close(model(images), expected)
    assert not model.head_is_fresh
    assert ControlledModel(timm.create_model("resnet10t", num_classes=4), 3, projector=None).head.out_features == 3


def test_two_distilled_heads_cannot_be_one() -> None:
    model = ControlledModel("deit_tiny_distilled_patch16_224", 3, projector=None, img_size=32)
    assert model.encoder_dim == 192
    assert model.head_is_fresh
    assert model.classifier_path is None
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 3)


def test_any_module_with_a_pooled_output() -> None:
    pooled = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    model = ControlledModel(pooled, 2, taps=("0", "encoder"), img_size=16)
    assert model.encoder_dim == 5, "its last linear map belongs to it"
    assert model.backbone_name == "Sequential"
    assert model.preprocessing["input_size"] == (3, 16, 16)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Conv2d(3, 6, 3), r"The output of Conv2d must be pooled, \(B, d\), not shape \(2, 6, 14, 14\)"),
        (nn.Conv2d(5, 6, 3), r"Conv2d does not run on images of \(3, 16, 16\)"),
    ],
)
def test_a_module_that_will_not_do(module: nn.Module, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        ControlledModel(module, 2, img_size=16)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnet81", {}, r"Unknown model 'resnet81'. Did you mean 'resnet18'"),
        ("resnet18.no_such_tag", {}, "Cannot build resnet18.no_such_tag"),
        ("vgg11", {"drop_path": 0.1}, "vgg11 cannot be built.*drop_path_rate"),
        ("resnet10t", {"backbone_options": {"blokcs": 1}}, "resnet10t cannot be built.*blokcs"),
        ("resnet10t", {"backbone_options": {"img_size": 32}}, "resnet10t cannot be built.*img_size"),
        ("resnet10t", {"normalization": "batch"}, "Unknown normalization 'batch'"),
        ("resnet10t", {"normalization": "group_ws", "pretrained": True}, "pretrained weights"),
    ],
)
def test_wrong_arguments_are_one_line(
    name: str, arguments: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=message) as caught:
        ControlledModel(name, 3, **arguments)
    assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_fetched_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> nn.Module:
        raise OSError("no route to host\nmany more lines")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=r"pretrained weights.*\(OSError: no route to host\)\. A local file.*FILE\.$"):
        ControlledModel("resnet10t", 3, pretrained=True)


def test_pretrained_classifier_is_kept_where_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **kwargs: create(name, **kwargs))
    arguments = {"pretrained": True, "img_size": 32}
    assert not ControlledModel("resnet10t", 1000, projector=None, **arguments).head_is_fresh
    assert ControlledModel("resnet10t", 10, projector=None, **arguments).head_is_fresh
    assert ControlledModel("resnet10t", 1000, **arguments).head_is_fresh


def test_options_are_for_names() -> None:
    with pytest.raises(UserError, match="given by its timm name"):
        ControlledModel(nn.Flatten(), 3, drop=0.1)


def test_drop_and_drop_path_reach_timm() -> None:
    backbone = ControlledModel("resnet10t", 3, drop=0.25, drop_path=0.5, img_size=32).backbone
    assert backbone.drop_rate == 0.25
    assert backbone.layer4[0].drop_path.drop_prob == 0.5


def test_preprocessing_follows_the_model_and_the_size() -> None:
    own = ControlledModel("tf_efficientnet_lite0", 3).preprocessing
    assert own == {
        "input_size": (3, 224, 224),
        "interpolation": "bicubic",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "crop_pct": 0.875,
        "crop_mode": "center",
    }
    grey = ControlledModel("resnet10t", 3, img_size=28, in_chans=1)
    assert grey.preprocessing["input_size"] == (1, 28, 28)
    assert grey.preprocessing["mean"] == pytest.approx([(0.485 + 0.456 + 0.406) / 3])
    assert grey(torch.randn(2, 1, 28, 28)).shape == (2, 3)


def test_list_backbones() -> None:
    names = list_backbones("vit_*_gap_sincos")
    assert names == ["vit_small_patch16_gap_sincos", "vit_tiny_patch16_gap_sincos"]
    assert len(list_backbones()) > 700


@pytest.mark.slow
def test_one_model_of_every_timm_module_can_be_built() -> None:
    failed = []
    for module in timm.list_modules():
        names = timm.list_models(module=module)
        small = [n for n in names if any(part in n for part in ("tiny", "nano", "atto", "b0", "18", "small"))] or names
        if not small or module == "sequencer":  # an LSTM has no meta kernel: minutes
            continue
        try:
            with torch.device("meta"):
                encoder = build_encoder(small[0], 3)
            assert encoder.dim > 0
        except UserError as error:
            failed.append(f"{small[0]}: {error}")
    assert not failed
