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
