"""The dimension-independence experiment against its closed form."""

from __future__ import annotations

import math

import pytest
import torch

from ood_nc.errors import UserError
from ood_nc.privacy import one_step_errors, predicted_error, shift_threshold

RUN = {"samples": 100, "noise_multiplier": 40.0}


@pytest.mark.parametrize(("dim", "shift"), [(10, 0.2), (100, 0.1), (400, 0.05), (1000, 0.05)])
def test_errors_are_the_predicted_ones(dim: int, shift: float) -> None:
    errors = one_step_errors(dim, shift, **RUN, replicates=300, tests=50, seed=1)
    deviation = errors.std().item() / math.sqrt(len(errors))
    assert abs(errors.mean().item() - predicted_error(dim, shift, **RUN)) < 4 * deviation + 0.004


def test_without_noise_there_is_no_error() -> None:
    assert float(one_step_errors(1000, 0.2, samples=100, noise_multiplier=0.0, replicates=5).max()) == 0


def test_the_threshold_is_near_one() -> None:
    dims, shifts = [50, 200, 200, 800], [0.1, 0.05, 0.1, 0.05]
    errors = [
        one_step_errors(p, b, **RUN, replicates=200, tests=50, seed=index)
        for index, (p, b) in enumerate(zip(dims, shifts, strict=True))
    ]
    found = shift_threshold(dims, shifts, errors, margin=2.5)
    assert found.low < 1 < found.high
    assert found.high - found.low < 0.4


def test_mistakes() -> None:
    with pytest.raises(UserError, match="positive shift"):
        shift_threshold([1], [0.0], [torch.zeros(3)], margin=1.0)
    with pytest.raises(UserError, match="from 0, got 0"):
        one_step_errors(0, 0.1, **RUN)
