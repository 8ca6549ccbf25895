"""T2FNorm against a loop over images."""

from __future__ import annotations

import math

import pytest
import torch

from ood_nc.errors import UserError
from ood_nc.losses import Batch, Objective, Term, t2fnorm


def slow(rows: torch.Tensor, head: torch.nn.Linear, targets: torch.Tensor, temperature: float) -> float:
    total = 0.0
    for row, label in zip(rows.tolist(), targets.tolist(), strict=True):
        length = math.sqrt(sum(value * value for value in row))
        scaled = [value / length / temperature for value in row]
        logits = [
            sum(a * b for a, b in zip(weight, scaled, strict=True)) + bias
            for weight, bias in zip(head.weight.tolist(), head.bias.tolist(), strict=True)
        ]
        total += math.log(sum(math.exp(value) for value in logits)) - logits[label]
    return total / len(rows)


@pytest.mark.parametrize("temperature", [0.1, 2.0])
def test_it_is_the_slow_loop_and_blind_to_length(temperature: float) -> None:
    head = torch.nn.Linear(4, 3).double()
    rows, targets = torch.randn(12, 4, dtype=torch.float64), torch.arange(12) % 3
    objective = Objective(
        "none", entropy_weights={}, terms=[Term("t2fnorm", "encoder", 1.0, {"temperature": temperature})]
    )
    for length in (1.0, 50.0):
        logits, given = head(length * rows), (head.weight, head.bias)
        loss, parts = objective(logits, targets, {"encoder": length * rows}, heads={"encoder": given})
        assert loss.item() == pytest.approx(slow(rows, head, targets, temperature), rel=1e-12)
        assert set(parts) == {"task", "t2fnorm/encoder"}
    loss.backward()
    assert head.weight.grad.abs().sum() > 0 and head.bias.grad.abs().sum() > 0


def test_mistakes_are_one_line() -> None:
    batch = Batch(torch.zeros(1, 2), torch.tensor([0]))
    with pytest.raises(UserError, match="temperature of t2fnorm must be positive"):
        t2fnorm(torch.zeros(1, 2), batch, temperature=0)
    for one in (batch, batch._replace(head=(torch.eye(3), None))):
        with pytest.raises(UserError, match="tap that a linear head reads"):
            t2fnorm(torch.zeros(1, 2), one)
