from __future__ import annotations

import time

import numpy as np
import pytest

from ood_nc.errors import UserError
from ood_nc.scores import METRICS, EmptySideError, bootstrap, bootstrap_intervals, detection_metrics


def test_known_intervals():
    # Field case 12: 50 OOD samples are not a benchmark.
    rng = np.random.default_rng(0)
    inside = rng.normal(1, 1, 10000)
    few = bootstrap_intervals(inside, rng.normal(0, 1, 50), ["auroc"])["auroc"]
    assert few == pytest.approx((0.71, 0.83), abs=0.01)
    rng = np.random.default_rng(0)
    inside = rng.normal(1, 1, 10000)
    many = bootstrap_intervals(inside, rng.normal(0, 1, 10000), ["auroc"])["auroc"]
    assert many == pytest.approx((0.757, 0.769), abs=0.01)


@pytest.mark.parametrize("decimals", [1, 6])
def test_counts_give_the_metrics_of_resampled_scores(decimals):
    # The fast path works on counts of ranks; here the same draws are resampled as scores and measured from scratch.
    rng = np.random.default_rng(3)
    sides = [np.sort(np.round(rng.normal(shift, 1, size), decimals)) for shift, size in ((1, 80), (0, 50))]
    values = np.unique(np.concatenate(sides))[::-1]
    for _ in range(20):
        drawn = [rng.choice(side, len(side)) for side in sides]
        counts = [np.array([[np.sum(side == value) for value in values]]) for side in drawn]
        found = bootstrap.metrics_of_counts(*counts, tuple(METRICS))
        assert {name: float(value[0]) for name, value in found.items()} == pytest.approx(
            detection_metrics(*drawn), abs=1e-12
        )


def test_interval_is_that_of_a_plain_bootstrap():
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(1, 1, 150), rng.normal(0, 1, 120)
    found = bootstrap_intervals(inside, outside, replicates=2000)
    plain = [detection_metrics(rng.choice(inside, 150), rng.choice(outside, 120)) for _ in range(2000)]
    for name, (low, high) in found.items():
        expected = np.percentile([row[name] for row in plain], [2.5, 97.5])
        width = expected[1] - expected[0]
        assert (low, high) == pytest.approx(expected, abs=0.12 * width), name


def test_grouped_ranks_give_the_same_interval(monkeypatch):
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(1, 1, 3000), rng.normal(0, 1, 3000)
    exact = bootstrap_intervals(inside, outside)
    monkeypatch.setattr(bootstrap, "_MOST_GROUPS", 200)
    for name, (low, high) in bootstrap_intervals(inside, outside).items():
        width = exact[name][1] - exact[name][0]
        assert (low, high) == pytest.approx(exact[name], abs=0.2 * width), name


def test_coverage_of_the_true_value():
    # AUROC of N(1, 1) against N(0, 1) is Phi(1 / sqrt 2) = 0.76025.
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(60):
        low, high = bootstrap_intervals(
            rng.normal(1, 1, 100), rng.normal(0, 1, 100), ["auroc"], replicates=200, confidence=0.8, seed=seed
        )["auroc"]
        hits += low <= 0.76025 <= high
    # Binomial(60, 0.8): outside [38, 57] with probability below 0.2 %.
    assert 38 <= hits <= 57


def test_seed_subset_and_bounds():
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(1, 1, 100), rng.normal(0, 1, 90)
    assert bootstrap_intervals(inside, outside, seed=1) == bootstrap_intervals(inside, outside, seed=1)
    assert bootstrap_intervals(inside, outside, seed=1) != bootstrap_intervals(inside, outside, seed=2)
    assert list(bootstrap_intervals(inside, outside, ["aupr_out", "auroc"])) == ["aupr_out", "auroc"]
    separated = bootstrap_intervals(inside + 100, outside)
    assert separated["auroc"] == (1, 1)
    assert separated["fpr95_id_positive"] == (0, 0)
    assert bootstrap_intervals([1.0], [0.0])["auroc"] == (1, 1)


def test_errors():
    with pytest.raises(UserError, match="Unknown detection metric 'fpr95'"):
        bootstrap_intervals([1.0], [0.0], ["fpr95"])
    for arguments in ({"replicates": 0}, {"confidence": 1.0}):
        with pytest.raises(UserError, match="replicates must be at least 1"):
            bootstrap_intervals([1.0], [0.0], **arguments)
    with pytest.raises(EmptySideError):
        bootstrap_intervals([], [0.0])


def test_speed():
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(1, 1, 10000), rng.normal(0, 1, 10000)
    started = time.process_time()
    bootstrap_intervals(inside, outside)
    assert time.process_time() - started < 3
