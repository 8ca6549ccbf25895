"""Sums over samples against float64 loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ood_nc import accumulate


def test_the_product_in_strips_equals_the_product() -> None:
    block = torch.randn(50, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scatter = torch.zeros(200, 200, dtype=torch.float64)
    accumulate.add_product(scatter, block, 2.0)
    torch.testing.assert_close(scatter.triu(), (2 * block.T @ block).triu(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_float32_rows_are_centred_to_their_own_digits(scale: float, offset: float) -> None:
    rng = np.random.default_rng(0)
    index = torch.arange(600) % 3
    rows = torch.from_numpy(scale * (rng.normal(size=(600, 7)) + offset)).float()
    centers = torch.from_numpy(scale * (rng.normal(size=(3, 7)) + offset))
    expected = rows.double() - centers[index]
    block = torch.empty_like(rows)
    squares = accumulate.center_rows(rows, index, accumulate.split(centers.clone(), torch.float32), block)
    torch.testing.assert_close(block.double(), expected, rtol=1e-6, atol=1e-7 * scale)
    torch.testing.assert_close(squares, expected.square().sum(dim=1), rtol=1e-5, atol=0)
    scatter = torch.zeros(7, 7, dtype=torch.float64)
    accumulate.add_scatter(scatter, block, squares)
    product = expected.T @ expected
    torch.testing.assert_close(
        accumulate.fill_lower(scatter), product, rtol=1e-5, atol=1e-6 * float(product.abs().max())
    )


@pytest.mark.parametrize("values", [[[1.0, -3.0]], [[math.nan, 1.0]], [[1.0, -math.inf]], [[]], [2.0, -1.0]])
def test_the_largest_magnitude_is_that_of_numpy(values: list[object]) -> None:
    expected = np.abs(np.asarray(values)).max(initial=0.0)
    np.testing.assert_equal(accumulate.largest_magnitude(torch.tensor(values)), expected)


@pytest.mark.parametrize("values", [[], [3.0, -4.0], [1e30], [float("nan"), 1.0], [float("inf"), -float("inf")]])
def test_the_length_is_that_of_numpy(values: list[float]) -> None:
    with np.errstate(over="ignore"):
        expected = np.linalg.norm(np.array(values, dtype=np.float32))
    np.testing.assert_equal(accumulate.length(torch.tensor(values)), float(expected))
    across = torch.arange(12.0).view(3, 4).T
    assert accumulate.length(across) == pytest.approx(np.linalg.norm(across.numpy()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("odd", [None, "largest", math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("shape", [(), (0, 3), (700, 3)])
def test_a_number_that_is_not_finite_is_seen_and_a_large_one_is_finite(
    dtype: torch.dtype, odd: float | str | None, shape: tuple[int, ...]
) -> None:
    values = torch.ones(shape, dtype=dtype)
    if odd is not None and values.numel():
        values.view(-1)[-2:] = torch.finfo(dtype).max if isinstance(odd, str) else odd
    assert accumulate.is_finite(values) == bool(np.isfinite(values.numpy()).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 131])
def test_class_sums_are_those_of_a_loop_over_the_rows(dtype: torch.dtype, weighted: bool, rows: int) -> None:
    rng = np.random.default_rng(rows)
    block = torch.from_numpy(rng.normal(size=(rows, 1500)) + 1e3).to(dtype)  # some pieces
    index, weights = torch.from_numpy(rng.integers(0, 4, rows)), torch.from_numpy(rng.random(rows))
    kept, expected = block.clone(), np.zeros((5, 1500))
    for row, own, weight in zip(block.double().numpy(), index.tolist(), weights.tolist(), strict=True):
        expected[own] += row * weight if weighted else row
    sums = accumulate.class_sums(block, index, weights if weighted else None, 5)
    np.testing.assert_allclose(sums, expected, rtol=1e-13)
    assert torch.equal(block, kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_are_centred_where_they_are_as_elsewhere(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    rows, index = torch.from_numpy(rng.normal(size=(131, 1500)) + 1e3).to(dtype), torch.from_numpy(np.arange(131) % 3)
    centers = torch.from_numpy(rng.normal(size=(3, 1500)) + 1e3)
    expected = rows.double().numpy() - centers.numpy()[index]
    kept, apart, inside = rows.clone(), torch.empty_like(rows), rows.clone()
    squares = [
        accumulate.center_rows(source, index, accumulate.split(centers.clone(), dtype), out)
        for source, out in ((rows, apart), (inside, inside))
    ]
    np.testing.assert_allclose(apart, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(squares[0], (expected**2).sum(axis=1), rtol=1e-6)
    assert torch.equal(apart, inside) and torch.equal(*squares) and torch.equal(rows, kept)


@pytest.mark.parametrize("dim", [1, 63, 64, 65, 200])
def test_the_upper_triangle_is_mirrored(dim: int) -> None:
    matrix = torch.arange(dim * dim, dtype=torch.float64).view(dim, dim)
    expected = np.triu(matrix.numpy()) + np.triu(matrix.numpy(), 1).T
    np.testing.assert_array_equal(accumulate.fill_lower(matrix), expected)
