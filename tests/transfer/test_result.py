"""Wilson's interval against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score, recall_score

from ood_nc.transfer import nearest_mean_probe
from ood_nc.transfer.result import check_task, wilson_interval


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 50), (50, 50), (7, 50), (9_000, 10_000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_interval(successes: int, n: int, confidence: float) -> None:
    expected = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert wilson_interval(successes, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_check_task_counts_unseen_samples() -> None:
    task = check_task(torch.ones(3, 2), [0, 1, 1], torch.ones(4, 2), [1, 2, 3, 0])
    assert task.unseen == 2


def test_balanced_error_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    train, labels = rng.normal(size=(40, 2)), np.arange(40) % 3
    test, wanted = rng.normal(size=(60, 2)), np.minimum(np.arange(60) % 7, 2)
    result = nearest_mean_probe(train, labels, test, wanted)
    recalls = recall_score(wanted, result.predictions, average=None)
    assert result.per_class == pytest.approx(dict(enumerate(recalls)))
    assert result.balanced_error == pytest.approx(1 - balanced_accuracy_score(wanted, result.predictions))
