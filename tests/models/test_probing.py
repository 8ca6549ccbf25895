from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from ood_nc.models.probing import layout_of, single_tensor, trace


class Refusing(nn.Module):
    """Does what meta tensors cannot: asks for a value."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.conv(images)
        return maps.mean((2, 3)) * float(maps.mean().item() * 0 + 1)


def test_trace_changes_nothing() -> None:
    model = timm.create_model("resnet10t", num_classes=3)
    model.layer1.eval()
    modes = [m.training for m in model.modules()]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    trace(model, (3, 32, 32))
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(not m._forward_hooks for m in model.modules())


def test_trace_runs_for_real_where_meta_tensors_will_not_do() -> None:
    seen = trace(Refusing(), (3, 8, 8))
    assert seen.output.shape == (2, 4)
    assert seen.output.device.type == "cpu"


def test_order_is_that_of_completion() -> None:
    names = list(trace(timm.create_model("resnet10t", num_classes=3), (3, 32, 32)).outputs)
    assert names.index("layer1.0.conv1") < names.index("layer1.0") < names.index("layer1") < names.index("layer2")


def test_signs_follow_the_layers() -> None:
    seen = trace(timm.create_model("resnet10t", num_classes=3), (3, 32, 32))
    assert seen.nonnegative["layer1"] is True
    assert seen.nonnegative["global_pool"] is True
    assert seen.nonnegative["layer1.0.bn1"] is False
    assert seen.nonnegative["fc"] is False


@pytest.mark.parametrize(
    ("name", "size", "module", "kind", "prefix"),
    [
        ("resnet10t", 32, "layer2", "nchw", 0),
        ("convnext_atto", 64, "stages.1", "nchw", 0),
        ("convnext_tiny", 64, "stages.1.blocks.0.mlp.fc1", "nhwc", 0),
        ("swin_tiny_patch4_window7_224", 64, "layers.1", "nhwc", 0),
        ("vit_tiny_patch16_224", 64, "blocks.1", "tokens", 1),
        ("vit_tiny_patch16_224", 64, "patch_embed", "tokens", 0),
        ("vit_small_patch14_reg4_dinov2", 56, "blocks.1", "tokens", 5),
        ("mixer_s32_224", 128, "blocks.1", "tokens", 0),
        ("mixer_s32_224", 128, "blocks.1.mlp_tokens", "sequence", 0),
        ("resnet10t", 32, "global_pool", "vector", 0),
    ],
)
def test_layouts(name: str, size: int, module: str, kind: str, prefix: int) -> None:
    options = {} if name.startswith(("resnet", "convnext")) else {"img_size": size}
    model = timm.create_model(name, num_classes=3, **options)
    layout = layout_of(module, model.get_submodule(module), trace(model, (3, size, size)), model)
    assert (layout.kind, layout.prefix) == (kind, prefix)


def test_as_many_channels_as_pixels_is_decided_by_the_module() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 8, 1), nn.Linear(8, 8)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.linear(self.conv(images)).mean((1, 2))

    model = Both()
    seen = trace(model, (3, 8, 8))
    assert layout_of("conv", model.conv, seen, model).kind == "nchw"
    assert layout_of("linear", model.linear, seen, model).kind == "nhwc"


def test_single_tensor() -> None:
    tensor = torch.zeros(1)
    assert single_tensor(tensor) is tensor
    assert single_tensor((tensor, None)) is tensor
    assert single_tensor((tensor, tensor)) is None
    assert single_tensor({"a": tensor}) is None
    assert single_tensor(torch.zeros(1, dtype=torch.long)) is None


def test_a_module_at_two_places_keeps_its_weights() -> None:
    shared = nn.Linear(4, 4)
    network = nn.Sequential(nn.Flatten(), shared, nn.ReLU(), shared)
    before = shared.weight.clone()
    seen = trace(network, (1, 2, 2))
    assert seen.output.device.type == "meta"
    assert shared.weight.device.type == "cpu" and torch.equal(shared.weight, before)
