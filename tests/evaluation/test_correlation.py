from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ood_nc.evaluation import correlation
from ood_nc.evaluation.correlation import Resampling, centred_ranks, correlate, min_max, pearson


def test_both_correlations_equal_scipys_with_ties_and_gaps() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 6, (3, 24)).astype(float), generator.normal(size=(4, 24))
    x[1, 4] = np.nan
    y[1:3, 7] = np.nan
    y[3] = 1.0
    found = correlate(x, y, Resampling(np.arange(24) // 2, 0, 0.95, 0))
    for other, entries in zip(y[:3], found[:3], strict=True):
        for row, entry in zip(x, entries, strict=True):
            both = ~(np.isnan(row) | np.isnan(other))
            assert entry["n"] == both.sum() and entry["pearson_low"] is None
            assert entry["pearson"] == pytest.approx(stats.pearsonr(row[both], other[both])[0])
            assert entry["spearman"] == pytest.approx(stats.spearmanr(row[both], other[both])[0])
    assert {entry["reason"] for entry in found[3]} == {"one of the two does not vary"}


def test_many_variables_give_what_each_gives_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(1)
    x, y, taps = generator.normal(size=(4, 12)), generator.normal(size=(5, 12)), np.arange(12) // 2
    x[0, 3] = y[2, 8] = np.nan
    alone = [[correlate(row[None], other[None], Resampling(taps, 50, 0.95, 0))[0][0] for row in x] for other in y]
    for cells in (correlation._CELLS, 1, 51 * 12 * 2):
        monkeypatch.setattr(correlation, "_CELLS", cells)
        found = correlate(x, y, Resampling(taps, 50, 0.95, 0))
        for entries, wanted in zip(found, alone, strict=True):
            for entry, one in zip(entries, wanted, strict=True):
                assert one.pop("reason", None) is entry.pop("reason") is None and entry == pytest.approx(one, rel=1e-9)


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
