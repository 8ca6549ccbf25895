from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ood_nc.errors import UserError
from ood_nc.models import ControlledModel
from ood_nc.models.normalization import WSConv2d, group_count, standardize


@pytest.mark.parametrize(
    ("channels", "groups"), [(64, 32), (72, 24), (40, 20), (24, 24), (48, 24), (112, 28), (7, 7), (512, 32), (1, 1)]
)
def test_group_count_is_the_largest_divisor(channels: int, groups: int) -> None:
    assert group_count(channels) == groups


def test_group_count_can_be_set() -> None:
    assert group_count(64, 16) == 16
    assert group_count(72, 10) == 9
    with pytest.raises(UserError, match="at least 1, got 0"):
        group_count(64, 0)


def test_standardize_is_the_unbiased_formula() -> None:
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64) * 0.1 + 0.5
    for index, row in enumerate(standardize(weight)):
        values = weight[index].flatten().tolist()
        mean = sum(values) / 27
        std = (sum((v - mean) ** 2 for v in values) / 26) ** 0.5
        expected = torch.tensor([(v - mean) / (std + 1e-5) for v in values], dtype=torch.float64)
        torch.testing.assert_close(row.flatten(), expected, atol=1e-13, rtol=0)


def test_standardize_keeps_half_precision_finite() -> None:
    weight = (torch.randn(4, 64, 3, 3) * 1e-3).half()
    assert standardize(weight).dtype == torch.float16
    assert standardize(weight).isfinite().all()


def _model(name: str, **arguments: object) -> ControlledModel:
    return ControlledModel(name, 3, normalization="group_ws", img_size=32, **arguments)


def _zeroed(model: nn.Module) -> list[str]:
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.GroupNorm) and (module.weight == 0).all()
    ]


def test_resnet_is_converted() -> None:
    model = _model("resnet18")
    assert not any(isinstance(module, _BatchNorm) for module in model.modules())
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert all(type(module) is WSConv2d and module.bias is None for module in convolutions)
    assert _zeroed(model) == [f"backbone.layer{i}.{j}.bn2" for i in range(1, 5) for j in range(2)]
    assert model.backbone.bn1.num_groups == 32


def test_a_block_starts_as_its_shortcut() -> None:
    block = _model("resnet18").backbone.layer1[0].eval()
    maps = torch.randn(2, 64, 8, 8)
    torch.testing.assert_close(block(maps.clone()), maps.relu())


def test_convolution_uses_the_standardised_weight() -> None:
    conv = _model("resnet18").backbone.conv1
    images = torch.randn(1, 3, 16, 16)
    expected = F.conv2d(images, standardize(conv.weight), None, stride=2, padding=3)
    torch.testing.assert_close(conv(images), expected)


def test_same_padding_is_kept() -> None:
    import timm

    model = _model("tf_efficientnet_lite0")
    stem = model.backbone.conv_stem
    assert type(stem) is WSConv2d
    reference = timm.create_model("tf_efficientnet_lite0").conv_stem
    with torch.no_grad():
        reference.weight.copy_(standardize(stem.weight))
    images = torch.randn(2, 3, 31, 32)
    torch.testing.assert_close(stem(images), reference(images))


def test_vgg_loses_its_biases_and_zeroes_nothing() -> None:
    model = _model("vgg11_bn")
    assert all(m.bias is None for m in model.backbone.modules() if isinstance(m, nn.Conv2d))
    assert _zeroed(model) == []


def test_mobilenet_keeps_activations_and_gates() -> None:
    model = _model("mobilenetv3_small_100")
    block = model.backbone.blocks[1][1]
    assert isinstance(block.bn1, nn.GroupNorm)
    assert isinstance(block.bn1.act, nn.ReLU)
    assert block.bn1.num_groups == 22, "88 channels"
    assert type(model.backbone.blocks[0][0].se.conv_reduce) is nn.Conv2d
    assert not any(isinstance(module, _BatchNorm) for module in model.modules())
    skips = [n for n, m in model.named_modules() if getattr(m, "has_skip", False) and hasattr(m, "bn3")]
    assert _zeroed(model) == [f"{name}.bn3" for name in skips]


@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "resnet18"])
def test_a_batch_of_one_equals_the_same_image_in_a_batch(name: str) -> None:
    model = _model(name).train()
    images = torch.randn(8, 3, 32, 32)
    torch.testing.assert_close(model(images[:1]), model(images)[:1], atol=1e-5, rtol=1e-5)


def test_groups_can_be_set() -> None:
    assert _model("resnet10t", backbone_options={"max_groups": 16}).backbone.layer1[0].bn1.num_groups == 16


def test_no_batch_norm_to_replace_is_an_error() -> None:
    with pytest.raises(UserError, match="vit_tiny_patch16_224 has no batch norm to replace"):
        ControlledModel("vit_tiny_patch16_224", 3, normalization="group_ws", img_size=32)


def test_unknown_normalization() -> None:
    with pytest.raises(UserError, match="Unknown normalization 'groups'"):
        ControlledModel("resnet10t", 3, normalization="groups")


def test_training_moves_every_weight() -> None:
    model = _model("resnet10t").train()
    logits = model(torch.randn(4, 3, 32, 32))
    F.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
