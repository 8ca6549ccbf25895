from __future__ import annotations

import math

import pytest
import timm
import torch
from timm.layers import build_sincos2d_pos_embed

from ood_nc.models import ControlledModel
from ood_nc.models.vit_gap import sincos_positions


def test_positions_against_a_slow_loop() -> None:
    positions = sincos_positions(3, 4, 8)
    for y in range(3):
        for x in range(4):
            frequencies = [10000 ** -(i / 2) for i in range(2)]
            expected = [wave(axis * f) for axis in (y, x) for wave in (math.sin, math.cos) for f in frequencies]
            assert positions[y * 4 + x].tolist() == pytest.approx(expected, abs=1e-6)


def test_positions_hold_the_values_of_timms() -> None:
    ours, theirs = sincos_positions(5, 7, 16), build_sincos2d_pos_embed([5, 7], 16)
    torch.testing.assert_close(ours.sort(dim=1).values, theirs.sort(dim=1).values, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("size", "dim", "millions"), [("tiny", 192, 5.49), ("small", 384, 21.6)])
def test_widths_and_counts(size: str, dim: int, millions: float) -> None:
    model = timm.create_model(f"vit_{size}_patch16_gap_sincos", num_classes=0)
    assert model.embed_dim == dim
    assert model.num_prefix_tokens == 0
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_positions_are_a_buffer_that_nothing_changes() -> None:
    model = timm.create_model("vit_tiny_patch16_gap_sincos", num_classes=3, img_size=48)
    assert "pos_embed" not in dict(model.named_parameters())
    assert "pos_embed" in model.state_dict()
    expected = sincos_positions(3, 3, 192)
    model.init_weights()
    assert torch.equal(model.pos_embed[0], expected)


def test_encoder_is_the_mean_over_tokens_after_the_last_norm() -> None:
    model = ControlledModel("vit_tiny_patch16_gap_sincos", 3, taps=("norm", "blocks.11", "encoder"), img_size=48).eval()
    images = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        _, taps = model.forward_taps(images)
        tokens = model.backbone.forward_features(images)
    assert tokens.shape == (2, 9, 192)
    torch.testing.assert_close(taps["encoder"], tokens.mean(1))
    torch.testing.assert_close(taps["norm"], taps["encoder"])
    assert taps["encoder"].mean(1).abs().max() < 1e-5, "the mean over coordinates is 0 with the initial affine"
