"""Decorrelation against NumPy's correlations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ood_nc.errors import UserError
from ood_nc.losses import Batch, decorrelation

BATCH = Batch(torch.zeros(40, 3), torch.arange(40) % 3)


def test_it_is_the_mean_of_numpys_squared_correlations() -> None:
    rows = torch.randn(40, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = rows @ torch.triu(torch.ones(5, 5, dtype=torch.float64))
    correlations = np.corrcoef(rows.numpy(), rowvar=False)
    expected = np.square(correlations[~np.eye(5, dtype=bool)]).mean()
    assert float(decorrelation(rows, BATCH)) == pytest.approx(expected, rel=1e-12)
    moved = rows * torch.tensor([1.0, 10.0, 1e-6, 3.0, 1e8], dtype=torch.float64) + 7
    assert float(decorrelation(moved, BATCH)) == pytest.approx(expected, rel=1e-6)


def test_a_dimension_that_does_not_vary_is_correlated_with_none() -> None:
    rows = torch.randn(40, 3, dtype=torch.float64)
    wider = torch.cat([rows, torch.full((40, 1), 2.0, dtype=torch.float64)], dim=1)
    assert float(decorrelation(wider, BATCH)) * 12 == pytest.approx(float(decorrelation(rows, BATCH)) * 6)


def test_a_step_down_makes_dimensions_less_alike() -> None:
    rows = torch.randn(40, 2, generator=torch.Generator().manual_seed(1)) @ torch.tensor([[1.0, 0.9], [0.0, 0.3]])
    rows.requires_grad_()
    before = decorrelation(rows, BATCH)
    before.backward()
    assert decorrelation(rows.detach() - 5 * rows.grad, BATCH).item() < before.item()


def test_no_matrix_is_one_line() -> None:
    with pytest.raises(UserError, match="needs features"):
        decorrelation(torch.zeros(3), BATCH)
