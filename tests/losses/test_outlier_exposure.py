"""Outlier exposure against a loop over outliers, and in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from ood_nc.errors import UserError
from ood_nc.losses import Batch, Objective, Term, outlier_exposure


def slow(logits: torch.Tensor) -> float:
    total = 0.0
    for row in logits.tolist():
        normaliser = math.log(sum(math.exp(value) for value in row))
        total += sum(normaliser - value for value in row) / len(row)
    return total / len(logits)


def test_it_is_the_slow_loop_and_its_gradient_the_closed_form() -> None:
    outliers = (3 * torch.randn(7, 4, dtype=torch.float64)).requires_grad_()
    logits, targets = torch.randn(5, 4, dtype=torch.float64), torch.arange(5) % 4
    objective = Objective(smoothing=0.0, entropy_weights={}, terms=[Term("outlier_exposure", "encoder", 0.5)])
    loss, parts = objective(logits, targets, {"encoder": logits}, outliers=outliers)
    task = torch.nn.functional.cross_entropy(logits, targets)
    assert float(loss) == pytest.approx(float(task) + 0.5 * slow(outliers.detach()), rel=1e-12)
    assert float(parts["outlier_exposure/encoder"]) == pytest.approx(slow(outliers.detach()), rel=1e-12)
    loss.backward()
    torch.testing.assert_close(outliers.grad, 0.5 * (outliers.detach().softmax(dim=1) - 0.25) / 7)


def test_without_outliers_it_is_one_line() -> None:
    with pytest.raises(UserError, match=r"name their source, data\.outliers"):
        outlier_exposure(torch.zeros(1, 2), Batch(torch.zeros(1, 2), torch.tensor([0])))
