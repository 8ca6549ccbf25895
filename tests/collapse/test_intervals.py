"""Jackknife intervals against a jackknife over the samples themselves, and their coverage."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from ood_nc.collapse import (
    ClassStatistics,
    ShardedStatistics,
    UndefinedMetricError,
    difference_intervals,
    measure,
    metric_intervals,
)
from ood_nc.errors import UserError


def means_of(classes: int, dim: int) -> np.ndarray:
    return np.random.default_rng(7).normal(size=(classes, dim)) * 2


def draw(rng: np.random.Generator, n: int, classes: int = 4, dim: int = 3) -> tuple[np.ndarray, np.ndarray]:
    labels = np.tile(np.arange(classes), n)
    return means_of(classes, dim)[labels] + rng.normal(size=(len(labels), dim)), labels


def test_total_and_shards_hold_each_sample_once() -> None:
    h, y = draw(np.random.default_rng(0), 25)
    sharded = ShardedStatistics(4, 3, shards=5)
    for start in range(0, 100, 7):
        sharded.update(h[start : start + 7], y[start : start + 7])
    whole = ClassStatistics(4, 3).update(h, y)
    torch.testing.assert_close(sharded.total().within, whole.within, rtol=1e-12, atol=1e-14)
    assert sharded.total().num_samples == 100
    for number, (shard, rest) in enumerate(zip(sharded.shards, sharded.leave_one_out(), strict=True)):
        assert shard.counts.tolist() == [5.0] * 4
        assert rest.counts.tolist() == [20.0] * 4
        others = [other for other in range(5) if other != number]
        expected = sum(sharded.shards[other].means * sharded.shards[other].counts[:, None] for other in others) / 20
        torch.testing.assert_close(rest.means, expected, rtol=1e-12, atol=1e-14)
        assert shard.num_samples == 20


def test_shards_do_not_depend_on_the_batches() -> None:
    h, y = draw(np.random.default_rng(1), 30)
    order = np.random.default_rng(2).permutation(len(y))
    h, y = h[order], y[order]
    one = ShardedStatistics(4, 3, shards=3).update(h, y)
    many = ShardedStatistics(4, 3, shards=3)
    for start in range(0, len(y), 11):
        many.update(h[start : start + 11], y[start : start + 11])
    for first, second in zip(one.shards, many.shards, strict=True):
        torch.testing.assert_close(first.means, second.means, rtol=1e-12, atol=1e-14)


def test_the_error_is_that_of_a_jackknife_over_groups_of_samples() -> None:
    h, y = draw(np.random.default_rng(3), 6, classes=1)
    h, y = np.concatenate([h, h + 4]), np.repeat([0, 1], 6)
    sharded = ShardedStatistics(2, 3, shards=6, seed=5).update(h, y)
    metrics = ["nc1_ratio", "cdnv", "nc1_pinv"]
    found = metric_intervals(sharded, metrics, confidence=0.9)
    # Six shards and six samples a class: leaving out shard k leaves out one sample of each class.
    start = sharded.update(h[:0], y[:0])._next.tolist()
    values: dict[str, list[float]] = {name: [] for name in metrics}
    for number in range(6):
        left_out = [(number - start[0]) % 6, 6 + (number - start[1]) % 6]
        kept = np.setdiff1d(np.arange(12), left_out)
        report = measure(ClassStatistics(2, 3).update(h[kept], y[kept])).to_dict()
        for name in metrics:
            values[name].append(report[name])
    full = measure(ClassStatistics(2, 3).update(h, y)).to_dict()
    for name in metrics:
        error = np.sqrt(5 / 6 * ((values[name] - np.mean(values[name])) ** 2).sum())
        assert found[name].error == pytest.approx(error, rel=1e-9)
        assert found[name].value == pytest.approx(full[name], rel=1e-10)
        bias = 5 * (np.mean(values[name]) - full[name])
        assert found[name].bias == pytest.approx(bias, rel=1e-7)
        # The 95 % point of Student's t with 5 degrees of freedom is 2.015048.
        assert found[name].high - (full[name] - bias) == pytest.approx(2.015048 * error, rel=1e-6)
        assert (full[name] - bias) - found[name].low == pytest.approx(2.015048 * error, rel=1e-6)


def test_the_bias_of_few_samples_is_removed() -> None:
    # tr Sigma_W of n samples a class is on average (n - 1)/n of that of the population: a bias of order 1/n alone.
    values = []
    for seed in range(40):
        sharded = ShardedStatistics(4, 3, shards=5, full=False).update(*draw(np.random.default_rng(seed), 5))
        found = metric_intervals(sharded, ["trace_within"])["trace_within"]
        values.append((found.value, found.value - found.bias))
        assert found.value - found.bias == pytest.approx(5 / 4 * found.value, rel=1e-9)
    assert np.mean(values, axis=0)[1] == pytest.approx(3, abs=0.25)


def test_the_state_round_trips_and_accumulates_on() -> None:
    h, y = draw(np.random.default_rng(8), 30)
    straight = ShardedStatistics(4, 3, shards=3).update(h, y)
    half = ShardedStatistics(4, 3, shards=3).update(h[:50], y[:50])
    resumed = ShardedStatistics.from_state_dict(half.state_dict()).update(h[50:], y[50:])
    for first, second in zip(straight.shards, resumed.shards, strict=True):
        torch.testing.assert_close(first.within, second.within, rtol=1e-12, atol=1e-14)
    assert difference_intervals(straight, resumed, ["vci"])["vci"].value == pytest.approx(0, abs=1e-12)
    for missing in ("next", "1.means"):
        state = {name: tensor for name, tensor in half.state_dict().items() if name != missing}
        with pytest.raises(UserError, match="missing"):
            ShardedStatistics.from_state_dict(state)


DRAWS = 300
# 95 % nominal; four standard errors of a share of 300 are 5 %.
NEAR_NOMINAL = (0.90, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "dim", "n"), [(4, 3, 100), (5, 16, 40)])
def test_intervals_cover_the_population_value(classes: int, dim: int, n: int) -> None:
    metrics = ("within_share", "cdnv", "nc1_pinv", "vci")
    population = measure(ClassStatistics(classes, dim).update(*population_of(classes, dim, 1.0))).to_dict()
    covered = dict.fromkeys(metrics, 0)
    for seed in range(DRAWS):
        sharded = ShardedStatistics(classes, dim, shards=10)
        sharded.update(*draw(np.random.default_rng(seed), n, classes, dim))
        for name, interval in metric_intervals(sharded, metrics).items():
            covered[name] += interval.low <= population[name] <= interval.high
    print({name: count / DRAWS for name, count in covered.items()})
    for name in metrics:
        assert NEAR_NOMINAL[0] <= covered[name] / DRAWS < NEAR_NOMINAL[1], name


@pytest.mark.slow
def test_paired_intervals_cover_the_difference_of_the_populations() -> None:
    metrics = ("within_share", "cdnv")
    population, noisy = (
        measure(ClassStatistics(4, 3).update(*population_of(4, 3, scale))).to_dict() for scale in (1.0, 1.25)
    )
    covered = dict.fromkeys(metrics, 0)
    for seed in range(DRAWS):
        rng = np.random.default_rng(seed)
        h, y = draw(rng, 100)
        first, second = (
            ShardedStatistics(4, 3, shards=10, full=False).update(features, y)
            for features in (h, h + 0.75 * rng.normal(size=h.shape))
        )
        for name, interval in difference_intervals(first, second, metrics).items():
            covered[name] += interval.low <= population[name] - noisy[name] <= interval.high
    print({name: count / DRAWS for name, count in covered.items()})
    for name in metrics:
        assert NEAR_NOMINAL[0] <= covered[name] / DRAWS < NEAR_NOMINAL[1], name


def population_of(classes: int, dim: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Features whose class means and covariance are exactly those that `draw` samples from, with noise ``scale``."""
    corners = math.sqrt(dim) * scale * np.concatenate([np.eye(dim), -np.eye(dim)])
    labels = np.repeat(np.arange(classes), 2 * dim)
    return means_of(classes, dim)[labels] + np.tile(corners, (classes, 1)), labels


def test_a_paired_difference_is_tighter_than_two_intervals() -> None:
    rng = np.random.default_rng(4)
    h, y = draw(rng, 300)
    near = h + 0.3 * rng.normal(size=h.shape)
    first = ShardedStatistics(4, 3, full=False).update(h, y)
    second = ShardedStatistics(4, 3, full=False).update(near, y)
    difference = difference_intervals(first, second, ["nc1_ratio"])["nc1_ratio"]
    alone = metric_intervals(first, ["nc1_ratio"])["nc1_ratio"]
    assert difference.error < alone.error
    assert difference.high < 0
    same = difference_intervals(first, first, ["cdnv"])["cdnv"]
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_weights_and_heads_are_passed_on() -> None:
    h, y = draw(np.random.default_rng(5), 40)
    weight = np.random.default_rng(6).normal(size=(4, 3))
    sharded = ShardedStatistics(4, 3, shards=4).update(h, y, np.full(len(y), 2.0))
    assert sharded.total().counts.tolist() == [80.0] * 4
    found = metric_intervals(sharded, ["nc3_duality"], weight=weight)["nc3_duality"]
    plain = measure(ClassStatistics(4, 3).update(h, y), weight=weight).nc3_duality
    assert found.value == pytest.approx(plain, rel=1e-10)
    both = difference_intervals(
        sharded, sharded, ["nc3_duality"], first_arguments={"weight": weight}, second_arguments={"weight": 2 * weight}
    )
    assert both["nc3_duality"].value == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("message", "metrics", "options"),
    [
        ("Unknown collapse metric 'nc1_ratoi'. Did you mean 'nc1_ratio'", ["nc1_ratoi"], {}),
        ("ncc_accuracy needs a second pass", ["ncc_accuracy"], {}),
        ("confidence must be between 0 and 1, got 95", ["nc1_ratio"], {"confidence": 95}),
        ("nc3_duality has no interval: needs weight", ["nc3_duality"], {}),
    ],
)
def test_what_has_no_interval_is_refused(message: str, metrics: list[str], options: dict[str, Any]) -> None:
    sharded = ShardedStatistics(4, 3, shards=2).update(*draw(np.random.default_rng(0), 4))
    with pytest.raises(UserError, match=message):
        metric_intervals(sharded, metrics, **options)


def test_a_metric_that_one_shard_carries_alone_is_undefined() -> None:
    sharded = ShardedStatistics(2, 2, shards=3).update([[0.0, 0.0], [1.0, 1.0]], [0, 1])
    with pytest.raises(UndefinedMetricError, match="nc1_ratio has no interval"):
        metric_intervals(sharded, ["nc1_ratio"])


def test_wrong_samples_are_refused() -> None:
    with pytest.raises(UserError, match="shards must be at least 2"):
        ShardedStatistics(2, 2, shards=1)
    sharded = ShardedStatistics(2, 2, shards=2)
    with pytest.raises(UserError, match=r"labels must be in 0\.\.1"):
        sharded.update(np.eye(2), [0, 2])
    with pytest.raises(UserError, match="row 1 holds NaN"):
        sharded.update(np.array([[0.0, 1.0], [np.nan, 1.0]]), [0, 1])
    assert [shard.num_samples for shard in sharded.shards] == [0, 0]
    other = ShardedStatistics(2, 2, shards=2).update(np.eye(2), [0, 1])
    with pytest.raises(UserError, match="different samples in their shards"):
        difference_intervals(sharded, other, ["cdnv"])
