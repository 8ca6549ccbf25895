from __future__ import annotations

import numpy as np
import pytest

from ood_nc.errors import UserError
from ood_nc.scores import (
    METRICS,
    auroc,
    bootstrap_intervals,
    delong_test,
    detection_metrics,
    draw_samples,
    paired_bootstrap,
    ranks_of_samples,
    resampled_metrics,
)


def pair(seed=0, n=120, m=90, decimals=6):
    """Two scores of the same samples that share most of their noise."""
    rng = np.random.default_rng(seed)
    shared = [rng.normal(1, 1, n), rng.normal(0, 1, m)]
    first, second = (tuple(np.round(s + 0.5 * rng.normal(size=len(s)), decimals) for s in shared) for _ in range(2))
    return first, second


def slow_delong(first, second):
    """The structural components by their definition, one pair of samples at a time."""
    kernels = [np.array([[(x > y) + 0.5 * (x == y) for y in ood] for x in inside]) for inside, ood in (first, second)]
    difference = kernels[0] - kernels[1]
    n, m = difference.shape
    variance = np.var(difference.mean(axis=1), ddof=1) / n + np.var(difference.mean(axis=0), ddof=1) / m
    return difference.mean(), np.sqrt(variance)


@pytest.mark.parametrize("decimals", [0, 6])
def test_against_the_definition(decimals):
    first, second = pair(decimals=decimals)
    difference, error = slow_delong(first, second)
    found = delong_test(first, second)
    assert found.difference == pytest.approx(difference, abs=1e-12)
    assert found.difference == pytest.approx(auroc(*first) - auroc(*second), abs=1e-12)
    assert (found.high - found.low) / (2 * 1.959964) == pytest.approx(error, rel=1e-6)


def test_published_p_value():
    # z = 2 has the two-sided p-value 0.0455.
    first, second = pair()
    difference, error = slow_delong(first, second)
    from scipy.stats import norm

    assert delong_test(first, second).p_value == pytest.approx(2 * norm.sf(abs(difference) / error), rel=1e-9)


def test_interval_as_the_bootstrap():
    first, second = pair(n=400, m=300)
    low, high = bootstrap_intervals(*first, ["auroc"], replicates=1500)["auroc"]
    found, drawn = delong_test(first, second), paired_bootstrap(first, second, ["auroc"], replicates=1500)["auroc"]
    assert (drawn.low, drawn.high) == pytest.approx((found.low, found.high), abs=0.005)
    # Pairing is worth it: two separate intervals would be wider.
    assert found.high - found.low < 0.8 * (high - low)


def test_level_under_the_hypothesis():
    rejected = sum(delong_test(*pair(seed, 60, 60)).p_value < 0.1 for seed in range(200))
    # Binomial(200, 0.1): outside [8, 34] with probability below 0.2 %.
    assert 8 <= rejected <= 34


def test_no_difference_and_no_variance():
    first, _ = pair()
    same = delong_test(first, first)
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    perfect, reversed_ = ([3.0, 4], [1.0, 2]), ([1.0, 2], [3.0, 4])
    assert delong_test(perfect, reversed_).p_value == 0


def test_paired_bootstrap_of_all_metrics():
    first, second = pair()
    found = paired_bootstrap(first, second, replicates=200)
    expected = [detection_metrics(*side) for side in (first, second)]
    assert list(found) == list(METRICS)
    for name, change in found.items():
        assert change.difference == pytest.approx(expected[0][name] - expected[1][name], abs=1e-12)
        assert change.low <= change.difference <= change.high
        assert change.p_value is None
    assert paired_bootstrap(first, first, replicates=20)["aupr_in"].high == 0
    assert paired_bootstrap(first, second, replicates=20, seed=3) == paired_bootstrap(
        first, second, replicates=20, seed=3
    )


def test_not_the_same_samples():
    first, second = pair()
    with pytest.raises(UserError, match=r"the same samples: 120 ID \+ 90 OOD scores against 119 \+ 90"):
        delong_test(first, (second[0][1:], second[1]))
    with pytest.raises(UserError, match="at least 2 ID and 2 OOD"):
        delong_test(([1.0], [0.0, 2.0]), ([1.0], [0.0, 2.0]))


def test_differences_of_nearly_equal_runs_are_not_off_by_the_groups_of_ranks():
    # 4,000 samples a side are grouped; those of every resample are measured one by one.
    generator = np.random.default_rng(0)
    first = generator.normal(1, 1, 4000), generator.normal(0, 1, 4000)
    second = tuple(side + 0.1 * generator.normal(size=4000) for side in first)
    counts = [draw_samples(4000, 60, [0, k]) for k in range(2)]
    names = ["auroc", "fpr95_id_positive"]
    grouped = [
        resampled_metrics(*pair, *(ranks_of_samples(*side) for side in zip(counts, pair, strict=True)), names)
        for pair in (first, second)
    ]
    exact = [
        [detection_metrics(np.repeat(pair[0], a), np.repeat(pair[1], b)) for a, b in zip(*counts, strict=True)]
        for pair in (first, second)
    ]
    for name in names:
        found = grouped[1][name][1:] - grouped[0][name][1:]
        wanted = np.array([b[name] - a[name] for a, b in zip(*exact, strict=True)])
        assert abs(found.mean() - wanted.mean()) < 0.1 * wanted.std(), name
        assert np.corrcoef(found, wanted)[0, 1] > 0.95, name
