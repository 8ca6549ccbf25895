"""Deep supervision against a loop over images."""

from __future__ import annotations

import math

import pytest
import torch

from ood_nc.errors import UserError
from ood_nc.losses import Batch, Objective, Term, deep_supervision


def test_it_is_the_slow_loop_on_the_classifier_of_its_tap() -> None:
    own, last = torch.nn.Linear(4, 3).double(), torch.nn.Linear(5, 3).double()
    early, late, targets = torch.randn(9, 4).double(), torch.randn(9, 5).double(), torch.arange(9) % 3
    total = 0.0
    for row, label in zip(early, targets.tolist(), strict=True):
        logits = [
            float(weight @ row + bias) for weight, bias in zip(own.weight.detach(), own.bias.detach(), strict=True)
        ]
        total += math.log(sum(math.exp(value) for value in logits)) - logits[label]
    objective = Objective(smoothing=0.0, entropy_weights={}, terms=[Term("deep_supervision", "block", 0.3)])
    heads = {"block": (own.weight, own.bias), "encoder": (last.weight, last.bias)}
    loss, parts = objective(last(late), targets, {"block": early, "encoder": late}, heads=heads)
    assert parts["deep_supervision/block"].item() == pytest.approx(total / 9, rel=1e-12)
    loss.backward()
    expected = (own(early).softmax(1) - torch.eye(3)[targets]).T @ early / 9
    torch.testing.assert_close(own.weight.grad, 0.3 * expected.detach())


def test_a_tap_without_a_classifier_is_one_line() -> None:
    with pytest.raises(UserError, match=r"name the tap in model\.auxiliary"):
        deep_supervision(torch.zeros(1, 2), Batch(torch.zeros(1, 2), torch.tensor([0])))
