from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ood_nc.evaluation.correlation import Resampling, centred_ranks, correlate, min_max, pearson


def test_both_correlations_equal_scipys_with_ties_and_gaps() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 6, (3, 24)).astype(float), generator.normal(size=24)
    x[1, 4] = np.nan
    y[7] = np.nan
    found = correlate(x, y, Resampling(np.arange(24) // 2, 0, 0.95, 0), key="x")
    for row, entry in zip(x, found, strict=True):
        both = ~(np.isnan(row) | np.isnan(y))
        assert entry["n"] == both.sum() and entry["pearson_low"] is None
        assert entry["pearson"] == pytest.approx(stats.pearsonr(row[both], y[both])[0])
        assert entry["spearman"] == pytest.approx(stats.spearmanr(row[both], y[both])[0])


def test_ranks_of_a_resample_are_those_of_its_repeated_values() -> None:
    values, counts = np.array([3.0, 1.0, 3.0, 2.0]), np.array([[1.0, 2.0, 0.0, 3.0]])
    repeated = np.repeat(values, counts[0].astype(int))
    ranks = stats.rankdata(repeated) - stats.rankdata(repeated).mean()
    wanted = [ranks[repeated == value][0] for value in values]
    np.testing.assert_allclose(centred_ranks(values, counts)[0], wanted)


def test_min_max_is_within_panels_and_undefined_without_spread() -> None:
    found = min_max(np.array([1.0, 3.0, 2.0, 5.0, 5.0, np.nan]), np.array([0, 0, 0, 1, 1, 0]))
    np.testing.assert_array_equal(found, [0, 1, 0.5, np.nan, np.nan, np.nan])


def test_pearson_of_what_does_not_vary_is_undefined() -> None:
    assert pearson(np.ones(4), np.arange(4.0)) is None
    assert pearson(np.arange(4.0), -np.arange(4.0)) == pytest.approx(-1)
