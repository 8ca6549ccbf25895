"""LogitNorm against a loop over images."""

from __future__ import annotations

import math

import pytest
import torch

from ood_nc.errors import UserError
from ood_nc.losses import Batch, Objective, Term, check_loss, logit_norm


def slow(logits: torch.Tensor, targets: torch.Tensor, temperature: float) -> float:
    total = 0.0
    for row, label in zip(logits.tolist(), targets.tolist(), strict=True):
        length = math.sqrt(sum(value * value for value in row)) + 1e-7
        scaled = [value / length / temperature for value in row]
        total += math.log(sum(math.exp(value) for value in scaled)) - scaled[label]
    return total / len(logits)


@pytest.mark.parametrize("temperature", [0.04, 1.0])
def test_it_is_the_slow_loop_and_blind_to_length(temperature: float) -> None:
    logits, targets = torch.randn(12, 5, dtype=torch.float64) * 3, torch.arange(12) % 5
    value = float(logit_norm(logits, Batch(logits, targets), temperature=temperature))
    assert value == pytest.approx(slow(logits, targets, temperature), rel=1e-12)
    assert float(logit_norm(logits, Batch(50 * logits, targets), temperature=temperature)) == pytest.approx(value)


def test_it_keeps_the_protocol() -> None:
    check_loss("logit_norm")


def test_it_takes_the_place_of_the_task_loss() -> None:
    logits, targets = torch.randn(6, 3, dtype=torch.float64), torch.arange(6) % 3
    objective = Objective("none", entropy_weights={}, terms=[Term("logit_norm", "encoder", 1.0, {"temperature": 0.5})])
    loss, parts = objective(logits, targets, {"encoder": logits})
    assert float(loss) == pytest.approx(slow(logits, targets, 0.5), rel=1e-12)
    assert set(parts) == {"task", "logit_norm/encoder"}


def test_a_temperature_of_zero_is_one_line() -> None:
    with pytest.raises(UserError, match="temperature of logit_norm must be positive"):
        logit_norm(torch.zeros(1, 2), Batch(torch.zeros(1, 2), torch.tensor([0])), temperature=0)
