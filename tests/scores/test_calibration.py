from __future__ import annotations

import numpy as np
import pytest
import torch

from ood_nc.errors import UserError
from ood_nc.scores import calibration_error


def test_against_a_loop_over_bins() -> None:
    generator = np.random.default_rng(0)
    confidences = np.concatenate([generator.random(400), np.arange(16) / 15])
    correct = generator.random(416) < confidences**2
    total = 0.0
    for k in range(15):
        low, high = k / 15, (k + 1) / 15
        inside = [i for i, p in enumerate(confidences) if (low < p or (k == 0 and p == 0)) and p <= high]
        if inside:
            total += abs(sum(confidences[i] - correct[i] for i in inside))
    assert calibration_error(confidences, correct) == pytest.approx(total / 416)
    assert calibration_error(torch.tensor(confidences), torch.tensor(correct)) == pytest.approx(total / 416)


def test_hand_computed_extremes() -> None:
    assert calibration_error([1.0, 1.0], [True, True]) == 0
    assert calibration_error([1.0, 1.0], [False, False]) == 1
    assert calibration_error([0.5, 0.5], [True, False]) == 0


@pytest.mark.parametrize(("p", "right"), [([], []), ([0.5], [1, 0]), ([1.5], [1]), ([float("nan")], [1])])
def test_what_is_no_confidence_is_refused(p: list[float], right: list[int]) -> None:
    with pytest.raises(UserError):
        calibration_error(np.array(p), np.array(right))
