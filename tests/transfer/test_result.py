"""Wilson's interval against scipy."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import binomtest

from ood_nc.transfer.result import check_task, wilson_interval


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 50), (50, 50), (7, 50), (9_000, 10_000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_interval(successes: int, n: int, confidence: float) -> None:
    expected = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert wilson_interval(successes, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_check_task_counts_unseen_samples() -> None:
    task = check_task(torch.ones(3, 2), [0, 1, 1], torch.ones(4, 2), [1, 2, 3, 0])
    assert task.unseen == 2
