from __future__ import annotations

import time

import numpy as np
import pytest

from ood_nc.errors import UserError
from ood_nc.scores import (
    EmptySideError,
    bootstrap_intervals,
    detection_metrics,
    draw_ranks,
    draw_samples,
    percentile_interval,
    percentile_intervals,
    ranks_of_samples,
    resampled_metrics,
)


def test_known_intervals():
    # Field case 12: 50 OOD samples are not a benchmark.
    rng = np.random.default_rng(0)
    inside = rng.normal(1, 1, 10000)
    few = bootstrap_intervals(inside, rng.normal(0, 1, 50), ["auroc"], replicates=2000)["auroc"]
    assert few == pytest.approx((0.71, 0.83), abs=0.01)
    rng = np.random.default_rng(0)
    inside = rng.normal(1, 1, 10000)
    many = bootstrap_intervals(inside, rng.normal(0, 1, 10000), ["auroc"], replicates=2000)["auroc"]
    assert many == pytest.approx((0.757, 0.769), abs=0.01)


def assert_measured(found, inside, outside):
    # Precisions are float32 quotients; what is counted is exact.
    for name, value in detection_metrics(inside, outside).items():
        assert found[name] == pytest.approx(value, abs=1e-6 if name.startswith("aupr") else 1e-12), name


@pytest.mark.parametrize(("n", "m", "levels"), [(50, 40, 8), (300, 200, 1000), (7, 400, 3), (1, 1, 2), (20, 20, 1)])
def test_replicates_are_the_metrics_of_the_drawn_ranks(n, m, levels):
    # The same draws are repeated as scores and measured from scratch.
    generator = np.random.default_rng(n)
    sides = [np.round(generator.normal(shift, 1, size) * levels / 8) for shift, size in ((1, n), (0, m))]
    drawn = [draw_ranks(n, 15, 1), draw_ranks(m, 15, 2)]
    found = resampled_metrics(*sides, *drawn)
    assert {name: values[0] for name, values in found.items()} == detection_metrics(*sides)
    for k in range(15):
        counts = [np.diff(side.before[k]).astype(int) for side in drawn]
        assert [count.sum() for count in counts] == [n, m]
        repeated = [np.repeat(np.sort(side), count) for side, count in zip(sides, counts, strict=True)]
        assert_measured({name: values[1 + k] for name, values in found.items()}, *repeated)


@pytest.mark.parametrize("seed", range(4))
def test_replicates_are_the_metrics_of_the_drawn_samples(seed):
    generator = np.random.default_rng(seed)
    sides = [generator.integers(0, 7, generator.integers(2, 25)).astype(float) for _ in range(2)]
    sides[0][0], sides[1][0] = np.inf, -np.inf
    counts = [draw_samples(len(side), 5, [seed, k]) for k, side in enumerate(sides)]
    found = resampled_metrics(*sides, *(ranks_of_samples(*pair) for pair in zip(counts, sides, strict=True)))
    for k in range(5):
        repeated = [np.repeat(side, count[k]) for side, count in zip(sides, counts, strict=True)]
        assert_measured({name: values[1 + k] for name, values in found.items()}, *repeated)


def test_grouped_ranks_have_the_spread_of_an_explicit_bootstrap():
    generator = np.random.default_rng(0)
    ids, oods = generator.normal(1, 1, 3000), generator.normal(0, 1, 2000)
    found = resampled_metrics(ids, oods, draw_ranks(3000, 400, 1), draw_ranks(2000, 400, 2))
    explicit = [
        detection_metrics(generator.choice(ids, len(ids)), generator.choice(oods, len(oods))) for _ in range(400)
    ]
    for name, values in found.items():
        wanted = np.array([entry[name] for entry in explicit])
        # 400 replicates know a standard deviation to 3.5 %, and a mean to a twentieth of one.
        assert values[1:].std() == pytest.approx(wanted.std(), rel=0.18), name
        assert abs(values[1:].mean() - wanted.mean()) < 0.3 * wanted.std(), name


def test_resamples_of_a_large_set_have_the_spread_of_a_multinomial():
    drawn = draw_ranks(100_000, 800, 0)
    median = drawn.below(np.array([50_000]))[:, 0]
    assert median.mean() == pytest.approx(50_000, abs=30)
    # Binomial(n, 1/2); 800 replicates know it to 2.5 %.
    assert median.std() == pytest.approx(np.sqrt(25_000), rel=0.1)
    assert drawn.below(np.array([0, 100_000])).tolist() == [[0, 100_000]] * 800


def test_no_replicates_and_resamples_of_other_sets():
    found = resampled_metrics([1.0, 2.0], [0.0], draw_ranks(2, 0, 0), draw_ranks(1, 0, 0))
    assert {name: values.tolist() for name, values in found.items() if len(values) != 1} == {}
    assert found["auroc"].tolist() == [1]
    with pytest.raises(UserError, match=r"Resamples of 3 \+ 1 samples for 2 \+ 1 scores"):
        resampled_metrics([1.0, 2.0], [0.0], draw_ranks(3, 2, 0), draw_ranks(1, 2, 0))


def test_the_intervals_of_several_metrics_are_those_of_each():
    rng = np.random.default_rng(0)
    found = {name: rng.random(201) for name in ("auroc", "aupr_in", "aupr_out")}
    expected = {name: percentile_interval(values[1:], 0.9) for name, values in found.items()}
    assert percentile_intervals(found, 0.9) == expected
    assert percentile_intervals({"auroc": np.ones(1)}) == {"auroc": (None, None)}
    with pytest.raises(UserError, match="confidence"):
        percentile_intervals(found, 0.0)


def test_percentile_interval():
    assert percentile_interval(np.arange(101.0), 0.9) == (pytest.approx(5), pytest.approx(95))
    assert percentile_interval(np.empty(0)) == (None, None)
    with pytest.raises(UserError, match="confidence must be in"):
        percentile_interval(np.ones(2), 1.0)


def test_interval_is_that_of_a_plain_bootstrap():
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(1, 1, 150), rng.normal(0, 1, 120)
    found = bootstrap_intervals(inside, outside, replicates=2000)
    plain = [detection_metrics(rng.choice(inside, 150), rng.choice(outside, 120)) for _ in range(2000)]
    for name, (low, high) in found.items():
        expected = np.percentile([row[name] for row in plain], [2.5, 97.5])
        width = expected[1] - expected[0]
        assert (low, high) == pytest.approx(expected, abs=0.12 * width), name


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
    with pytest.raises(UserError, match="replicates must be at least 1"):
        bootstrap_intervals([1.0], [0.0], replicates=0)
    with pytest.raises(UserError, match="confidence must be in"):
        bootstrap_intervals([1.0], [0.0], confidence=1.0)
    with pytest.raises(EmptySideError):
        bootstrap_intervals([], [0.0])


def test_speed():
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(1, 1, 10000), rng.normal(0, 1, 10000)
    started = time.process_time()
    bootstrap_intervals(inside, outside)
    assert time.process_time() - started < 3
