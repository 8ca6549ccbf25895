from __future__ import annotations

import timm
import torch
from torch import nn
from torch.nn import functional as F

from ood_nc.models import ControlledModel
from ood_nc.models.normalization import WSConv2d


def test_it_is_six_convolutions_in_a_row() -> None:
    model = timm.create_model("convnet6", num_classes=7).eval()
    images = torch.randn(2, 3, 32, 32)
    maps = images
    for index, stride in enumerate((2, 1, 2, 1, 2, 1), start=1):
        state = {k.removeprefix(f"block{index}."): v for k, v in model.state_dict().items()}
        maps = F.conv2d(maps, state["conv.weight"], stride=stride, padding=1)
        norm = state["norm.running_mean"], state["norm.running_var"], state["norm.weight"], state["norm.bias"]
        maps = F.relu(F.batch_norm(maps, *norm))
    assert maps.shape == (2, 128, 4, 4)
    torch.testing.assert_close(model.forward_features(images), maps)
    torch.testing.assert_close(model(images), F.linear(maps.mean((2, 3)), model.fc.weight, model.fc.bias))


def test_timms_protocol() -> None:
    model = timm.create_model("convnet6", num_classes=7, in_chans=1).double()
    maps = model.forward_features(torch.randn(2, 1, 32, 32, dtype=torch.float64))
    assert torch.equal(model.forward_head(maps, pre_logits=True), maps.mean((2, 3)))
    model.reset_classifier(5)
    assert model.get_classifier()(maps.mean((2, 3))).shape == (2, 5)
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), nn.Identity)


def test_a_stage_ends_where_the_resolution_falls() -> None:
    model = ControlledModel("convnet6", 10, taps=("stages", "encoder"))
    assert model.tap_names == ("block2", "block4", "block6", "encoder")
    assert [entry["reduction"] for entry in model.backbone.feature_info] == [2, 4, 8]


def test_group_ws_replaces_every_norm_and_leaves_every_block_alive() -> None:
    model = ControlledModel("convnet6", 10, normalization="group_ws", taps=("blocks", "block?.conv", "encoder"))
    kinds = [type(module) for module in model.backbone.modules()]
    assert kinds.count(nn.GroupNorm) == kinds.count(WSConv2d) == 6
    assert nn.BatchNorm2d not in kinds
    assert all(module.weight.eq(1).all() for module in model.backbone.modules() if isinstance(module, nn.GroupNorm))
    expected = [f"block{i}{part}" for i in range(1, 7) for part in (".conv", "")]
    assert model.tap_names == (*expected, "encoder")
    assert model.tap_info["encoder"].nonnegative


def test_the_one_of_20_layers_halves_twice_and_keeps_its_width() -> None:
    model = timm.create_model("convnet20", num_classes=7, width=8, depth=5)
    strides = [(m.in_channels, m.out_channels, m.stride[0]) for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert strides == [(3, 8, 2), (8, 8, 2), (8, 8, 1), (8, 8, 1), (8, 8, 1)]
    with torch.device("meta"):
        paper = timm.create_model("convnet20")
    assert [m.out_channels for m in paper.modules() if isinstance(m, nn.Conv2d)] == [128] * 20
