from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ood_nc.errors import UserError
from ood_nc.models.pooling import Layout, Pooling, resolve

NCHW, NHWC, TOKENS = Layout("nchw"), Layout("nhwc"), Layout("tokens", prefix=2, class_token=True)


@pytest.fixture
def maps() -> torch.Tensor:
    return torch.randn(3, 5, 7, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("how", ["auto", "avg", "max", "flatten", "avg2x2"])
def test_maps_in_either_layout(maps: torch.Tensor, how: str) -> None:
    expected = {
        "auto": maps.mean((2, 3)),
        "avg": maps.mean((2, 3)),
        "max": maps.amax((2, 3)),
        "flatten": maps.flatten(1),
        "avg2x2": F.adaptive_avg_pool2d(maps, 2).flatten(1),
    }[how]
    torch.testing.assert_close(resolve(how, NCHW, tuple(maps.shape), "t")(maps), expected)
    torch.testing.assert_close(
        resolve(how, NCHW, tuple(maps.shape), "t")(maps.to(memory_format=torch.channels_last)), expected
    )
    if how != "flatten":
        last = maps.permute(0, 2, 3, 1).contiguous()
        torch.testing.assert_close(resolve(how, NHWC, tuple(last.shape), "t")(last), expected)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 2), (5, 8)])
def test_quadrants_are_torchs_adaptive_pooling(size: tuple[int, int]) -> None:
    maps = torch.randn(2, 3, *size)
    torch.testing.assert_close(Pooling("avg2x2", NCHW)(maps), F.adaptive_avg_pool2d(maps, 2).flatten(1))


def test_tokens_leave_the_prefix_out() -> None:
    tokens = torch.randn(2, 2 + 9, 4)
    shape = tuple(tokens.shape)
    torch.testing.assert_close(resolve("auto", TOKENS, shape, "t")(tokens), tokens[:, 2:].mean(1))
    torch.testing.assert_close(resolve("max", TOKENS, shape, "t")(tokens), tokens[:, 2:].amax(1))
    assert torch.equal(resolve("token", TOKENS, shape, "t")(tokens), tokens[:, 0])
    grid = tokens[:, 2:].transpose(1, 2).reshape(2, 4, 3, 3)
    torch.testing.assert_close(resolve("avg2x2", TOKENS, shape, "t")(tokens), F.adaptive_avg_pool2d(grid, 2).flatten(1))


def test_sequences_with_channels_first() -> None:
    sequence = torch.randn(2, 4, 10)
    pool = resolve("auto", Layout("sequence"), (2, 4, 10), "t")
    torch.testing.assert_close(pool(sequence), sequence.mean(2))


@pytest.mark.parametrize("layout", [NCHW, NHWC, Layout("tokens", 1, True), Layout("vector")])
@pytest.mark.parametrize("how", ["auto", "avg", "max", "token", "flatten", "avg2x2"])
def test_result_is_fresh_and_survives_an_in_place_operation(layout: Layout, how: str) -> None:
    shape = {"nchw": (2, 1, 1, 1), "nhwc": (2, 1, 1, 1), "tokens": (2, 2, 1), "vector": (2, 1)}[layout.kind]
    if how == "token" and layout.kind in ("nchw", "nhwc"):
        return
    source = torch.ones(shape, requires_grad=True)
    output = source * 2
    pooled = resolve(how, layout, shape, "t")(output)
    assert pooled.ndim == 2
    output.mul_(-7)
    assert torch.equal(pooled, torch.full_like(pooled, 2.0))
    pooled.sum().backward()  # autograd refuses if it had kept the overwritten tensor
    assert source.grad.sum() > 0


def test_unknown_pooling_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"Unknown pooling 'avgg' of tap 'layer1'.*Did you mean 'avg'"):
        resolve("avgg", NCHW, (2, 3, 4, 4), "layer1")


def test_pooling_that_the_layout_does_not_have() -> None:
    with pytest.raises(UserError, match="no class token"):
        resolve("token", NCHW, (2, 3, 4, 4), "layer1")
    with pytest.raises(UserError, match="7 tokens are no square grid"):
        resolve("avg2x2", Layout("tokens"), (2, 7, 4), "blocks.0")
