from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ood_nc.evaluation.resampling import draw_counts, interval, resampled_metrics, sort_scores
from ood_nc.scores import auroc, fpr_at_tpr

LEVELS = st.lists(st.integers(0, 6).map(float), min_size=2, max_size=25).map(np.array)


def ones(n: int) -> np.ndarray:
    return np.ones((1, n), dtype=np.uint8)


@settings(max_examples=60, deadline=None)
@given(LEVELS, LEVELS, st.integers(0, 100))
def test_replicates_equal_the_metrics_of_the_drawn_samples(ids: np.ndarray, oods: np.ndarray, seed: int) -> None:
    generator = np.random.default_rng(seed)
    counts = [np.vstack([ones(len(side)), draw_counts(len(side), 5, generator)]) for side in (ids, oods)]
    found = resampled_metrics(sort_scores(ids, oods), *counts)
    for replicate in range(6):
        drawn = [np.repeat(side, count[replicate]) for side, count in zip((ids, oods), counts, strict=True)]
        assert found["auroc"][replicate] == pytest.approx(auroc(*drawn), abs=1e-12)
        assert found["fpr95_id_positive"][replicate] == pytest.approx(fpr_at_tpr(*drawn), abs=1e-12)


def test_infinite_scores_keep_their_rank() -> None:
    ids, oods = np.array([-np.inf, 0.0, 1.0, np.inf]), np.array([-np.inf, -np.inf, 0.5, np.inf])
    found = resampled_metrics(sort_scores(ids, oods), ones(4), ones(4))
    assert found["auroc"][0] == pytest.approx(auroc(ids, oods))
    assert found["fpr95_id_positive"][0] == pytest.approx(fpr_at_tpr(ids, oods))


def test_counts_are_resamples() -> None:
    counts = draw_counts(50, 2000, np.random.default_rng(0))
    assert (counts.sum(axis=1) == 50).all()
    # A sample is left out with probability (1 - 1/n)^n, and the variance of its count is (1 - 1/n).
    assert (counts == 0).mean() == pytest.approx((1 - 1 / 50) ** 50, abs=0.01)
    assert counts.var(axis=0).mean() == pytest.approx(1 - 1 / 50, abs=0.03)


def test_interval() -> None:
    assert interval(np.arange(101.0), 0.9) == (pytest.approx(5), pytest.approx(95))
    assert interval(np.empty(0)) == (None, None)
