from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.stats import betabinom, binom, false_discovery_control

from ood_nc.errors import UserError
from ood_nc.scores import (
    DiscoveryCounter,
    EmptySideError,
    NanScoreError,
    ScoreEnsemble,
    benjamini_hochberg,
    choose_class_thresholds,
    choose_threshold,
    conformal_discoveries,
    conformal_p_values,
)


def test_accepted_share_of_fresh_id():
    # Field case 13.
    rng = np.random.default_rng(1)
    threshold = choose_threshold(rng.normal(size=1000))
    accepted = threshold.accept(rng.normal(size=100_000)).double().mean()
    assert accepted.item() == pytest.approx(0.95, abs=0.015)
    assert threshold.samples == 1000
    assert threshold.false_alarms_per_10000 == pytest.approx(1e4 * 50 / 1001)


def test_guarantee_and_interval_over_held_out_sets():
    rng = np.random.default_rng(0)
    rates, covered = [], 0
    for _ in range(400):
        threshold = choose_threshold(rng.random(199), tpr=0.9, confidence=0.9)
        rates.append(threshold.value)
        covered += threshold.low <= 1e4 * threshold.value <= threshold.high
    # On the uniform distribution the threshold is its own false alarm rate: Beta(20, 180), mean 0.1, sd 0.0212.
    assert np.mean(rates) == pytest.approx(0.1, abs=4 * 0.0212 / 20)
    assert binom.cdf(covered, 400, 0.9) > 1e-3
    assert binom.sf(covered, 400, 0.9) > 1e-3


def test_smallest_scores_are_rejected_ties_accepted():
    threshold = choose_threshold(np.arange(1, 20), tpr=0.9)
    # j = floor(0.1 * 20) = 2: the second smallest score is the threshold and is accepted itself.
    assert threshold.value == 2
    assert threshold.accept([1.9, 2.0, 30.0]).tolist() == [False, True, True]


def test_too_few_samples_reject_nothing():
    threshold = choose_threshold(np.arange(10.0), tpr=0.95)
    assert threshold.value == -np.inf
    assert (threshold.false_alarms_per_10000, threshold.high) == (0, 0)
    assert choose_threshold(np.arange(19.0), tpr=0.95).value == 0


def test_class_thresholds():
    rng = np.random.default_rng(0)
    classes = np.arange(2000) % 2
    scores = rng.normal(5 * classes, 1)
    found = choose_class_thresholds(scores, classes)
    assert found[0] == choose_threshold(scores[classes == 0])
    assert found[1] == choose_threshold(scores[classes == 1])
    fresh = rng.normal(5 * classes, 1)
    for c in (0, 1):
        assert found[c].accept(fresh[classes == c]).double().mean().item() == pytest.approx(0.95, abs=0.03)


def test_p_values_by_definition():
    held_out, scores = np.array([1.0, 2, 2, 5]), np.array([0.0, 1, 2, 4, 9])
    assert conformal_p_values(scores, held_out).tolist() == [1 / 5, 2 / 5, 4 / 5, 4 / 5, 1.0]


@pytest.mark.parametrize("decimals", [0, 6])
def test_p_values_are_super_uniform(decimals):
    rng = np.random.default_rng(0)
    values = np.concatenate(
        [conformal_p_values(*(np.round(rng.normal(size=n), decimals) for n in (20, 99))).numpy() for _ in range(300)]
    )
    for t in (0.01, 0.05, 0.1, 0.5):
        # The p-values of one held-out set depend on each other: allow for 300 sets, not 6,000 samples.
        assert np.mean(values <= t) <= t + 3 * np.sqrt(t * (1 - t) / 300)
    if decimals:
        assert np.mean(values <= 0.5) == pytest.approx(0.5, abs=0.05)


def test_p_values_agree_with_the_threshold():
    rng = np.random.default_rng(0)
    held_out, scores = rng.normal(size=137), rng.normal(size=500)
    for tpr in (0.8, 0.9, 0.95):
        accepted = choose_threshold(held_out, tpr).accept(scores)
        np.testing.assert_array_equal(conformal_p_values(scores, held_out) > 1 - tpr + 1e-12, accepted)


def test_p_values_within_the_class():
    held_out, groups = np.array([1.0, 2, 3, 4]), np.array([0, 0, 1, 1])
    found = conformal_p_values([1.5, 1.5, 1.5], held_out, classes=[0, 1, 2], held_out_classes=groups)
    assert found.tolist() == pytest.approx([2 / 3, 1 / 3, 1.0])
    with pytest.raises(UserError, match="both classes and held_out_classes"):
        conformal_p_values([1.0], held_out, classes=[0])


def test_benjamini_hochberg_as_scipy():
    rng = np.random.default_rng(0)
    for _ in range(20):
        values = np.r_[rng.random(30), 0.01 * rng.random(10)]
        expected = false_discovery_control(values) <= 0.1
        np.testing.assert_array_equal(benjamini_hochberg(values, 0.1), expected)
    assert benjamini_hochberg([0.9, 0.8]).tolist() == [False, False]
    assert benjamini_hochberg([]).shape == (0,)


def test_false_discovery_rate_on_conformal_p_values():
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(200):
        scores = np.r_[rng.normal(size=40), rng.normal(-4, 1, size=10)]
        called = benjamini_hochberg(conformal_p_values(scores, rng.normal(size=400)), 0.2).numpy()
        shares.append(called[:40].sum() / max(1, called.sum()))
    assert np.mean(shares) <= 0.2
    assert np.mean(shares) > 0.05


def exact_discoveries(scores, held_out, level, storey=None):
    """The definition in rational numbers: the largest score at which the expected share of ID is at most ``level``."""
    n, m = len(held_out), len(scores)
    expected_id = Fraction(m)
    if storey is not None:
        first = max(1, storey * (n + 1) // 1)
        late = sum(1 + sum(h <= s for h in held_out) >= first for s in scores)
        expected_id = Fraction(1 + late) / (1 - Fraction(first, n + 1))
    cut = -np.inf
    for t in scores:
        share = expected_id * (1 + sum(h <= t for h in held_out)) / (n + 1) / sum(s <= t for s in scores)
        if share <= level:
            cut = max(cut, t)
    return [s <= cut for s in scores]


@pytest.mark.parametrize("decimals", [0, 1, 9])
def test_conformal_discoveries_by_definition(decimals):
    rng = np.random.default_rng(decimals)
    called = 0
    for _ in range(20):
        n, m = rng.integers(1, 60), rng.integers(1, 30)
        held_out = np.round(rng.normal(size=n), decimals)
        scores = np.round(np.r_[rng.normal(size=m), rng.normal(-3, 1, size=m)], decimals)
        for level in (Fraction(1, 20), Fraction(1, 10), Fraction(1, 3)):
            found = conformal_discoveries(scores, held_out, float(level)).numpy()
            assert found.tolist() == exact_discoveries(scores, held_out, level)
            p_values = conformal_p_values(scores, held_out)
            np.testing.assert_array_equal(found, benjamini_hochberg(p_values, float(level)))
            for storey in (Fraction(1, 2), Fraction(9, 10)):
                found = conformal_discoveries(scores, held_out, float(level), storey=float(storey))
                assert found.tolist() == exact_discoveries(scores, held_out, level, storey)
            called += int(found.sum())
    assert called > 200


def test_rounding_does_not_decide_where_the_bound_is_met():
    # 10 p-values of 1/100 times 10/10 at level 0.01, or 3 of 10 at 3/100 and 0.1: equal in rational numbers.
    held_out = np.arange(99.0)
    for called, below, level in ((10, 0, 0.01), (3, 2, 0.1), (7, 6, 0.1), (1, 0, 0.1)):
        scores = np.r_[np.full(called, below - 0.5), np.full(10 - called, 200.0)]
        assert conformal_discoveries(scores, held_out, level).sum() == called
        assert benjamini_hochberg(conformal_p_values(scores, held_out), level).sum() == called
        assert conformal_discoveries(scores, held_out, level * (1 - 1e-6)).sum() == 0


def test_discovery_counter_over_batches_of_any_size():
    rng = np.random.default_rng(0)
    held_out, scores = rng.normal(size=4000), np.r_[rng.normal(size=5000), rng.normal(-4, 1, size=500)]
    rng.shuffle(scores)
    p_values = conformal_p_values(scores, held_out)
    counter = DiscoveryCounter(4000)
    assert counter.cut() == 0
    for part in np.split(p_values.numpy(), [1, 1, 7, 4000]):
        counter.update(part)
    assert len(counter) == 5500
    for level, storey in ((0.05, None), (0.2, None), (0.2, 0.5)):
        expected = conformal_discoveries(scores, held_out, level, storey=storey)
        assert expected.sum() > 300
        assert (p_values <= counter.cut(level, storey=storey)).tolist() == expected.tolist()
        # The cut is itself the largest p-value that is called.
        assert counter.cut(level, storey=storey) == p_values[expected].max()
    assert counter._counts.size == 4002
    # p-values of another resolution count as the next larger level, so they make no call that those would not.
    assert DiscoveryCounter(3).update([0.2, 0.2]).cut(0.3) == 0.25
    assert DiscoveryCounter(3).update([0.26, 0.26]).cut(0.3) == 0
    assert DiscoveryCounter(10**6).update(np.full(9, 123456 / (10**6 + 1))).cut(0.2) == 123456 / (10**6 + 1)


@pytest.mark.parametrize("storey", [None, 0.5])
def test_false_discovery_rate_and_power(storey):
    rng = np.random.default_rng(0)
    shares, found = [], []
    for _ in range(600):
        scores = np.r_[rng.normal(size=40), rng.normal(-3, 1, size=40)]
        called = conformal_discoveries(scores, rng.normal(size=300), 0.2, storey=storey).numpy()
        shares.append(called[:40].sum() / max(1, called.sum()))
        found.append(called[40:].mean())
    slack = 3 * np.std(shares) / np.sqrt(600)
    # Benjamini-Hochberg spends pi0 = 1/2 of the level, Storey's estimate nearly all of it.
    assert np.mean(shares) <= (0.1 if storey is None else 0.2) + slack
    assert np.mean(shares) >= (0.08 if storey is None else 0.13)
    assert np.mean(found) > (0.85 if storey is None else 0.9)


def test_accepted_share_of_fresh_id_over_seeds():
    # The number accepted is beta-binomial over held-out and fresh sets: 20 seeds, each within its 99.9 % interval.
    n, fresh = 1000, 10_000
    rejected = betabinom(fresh, 50, 951)
    counts = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        threshold = choose_threshold(rng.standard_t(3, size=n))
        counts.append(int((~threshold.accept(rng.standard_t(3, size=fresh))).sum()))
    assert rejected.ppf(0.0005) <= min(counts)
    assert max(counts) <= rejected.ppf(0.9995)
    assert np.mean(counts) == pytest.approx(rejected.mean(), abs=3 * rejected.std() / np.sqrt(20))


@pytest.mark.slow
@pytest.mark.parametrize("decimals", [1, 9])
def test_guarantees_over_many_held_out_sets(decimals):
    rng = np.random.default_rng(0)
    levels = np.array([0.005, 0.01, 0.05, 0.1, 0.25, 0.5])
    below, shares = [], []
    for _ in range(4000):
        held_out, scores = (np.round(rng.normal(size=size), decimals) for size in (200, 500))
        below.append((conformal_p_values(scores, held_out).numpy()[:, None] <= levels).mean(axis=0))
        outliers = np.round(rng.normal(-3, 1, size=30), decimals)
        called = conformal_discoveries(np.r_[scores[:70], outliers], held_out, 0.1).numpy()
        shares.append(called[:70].sum() / max(1, called.sum()))
    deviation = np.std(below, axis=0) / np.sqrt(len(below))
    assert (np.mean(below, axis=0) <= levels + 3 * deviation).all()
    assert np.mean(shares) <= 0.07 + 3 * np.std(shares) / np.sqrt(len(shares))


@pytest.mark.parametrize(
    "call",
    [
        lambda: choose_threshold([1.0], tpr=1.0),
        lambda: choose_threshold([1.0], confidence=0),
        lambda: benjamini_hochberg([0.5], level=1.0),
        lambda: benjamini_hochberg([1.5]),
        lambda: conformal_discoveries([1.0], [1.0], 0.0),
        lambda: conformal_discoveries([1.0], [1.0], 0.1, storey=1.0),
        lambda: DiscoveryCounter(0),
        lambda: DiscoveryCounter(5).update([0.0]),
        lambda: DiscoveryCounter(5).update([float("nan")]),
        lambda: DiscoveryCounter(5).cut(1.0),
    ],
)
def test_arguments_out_of_range(call):
    with pytest.raises(UserError):
        call()


def test_no_or_bad_held_out_scores():
    with pytest.raises(EmptySideError, match="no held-out ID scores"):
        choose_threshold([])
    with pytest.raises(NanScoreError, match="held_out holds 1 NaN"):
        conformal_p_values([1.0], [float("nan"), 2.0])
    with pytest.raises(NanScoreError, match="scores holds 1 NaN of 1"):
        conformal_p_values([float("nan")], [2.0])
    with pytest.raises(EmptySideError, match="no held-out ID scores"):
        conformal_discoveries([1.0], [])
    with pytest.raises(NanScoreError, match="scores holds 1 NaN of 1"):
        conformal_discoveries([float("nan")], [2.0])
    assert conformal_discoveries([], [2.0]).shape == (0,)


def test_integers_and_a_threshold_are_compared_exactly():
    # 2^24 + 1 is 2^24 in float32, where torch compares integers with a float.
    assert choose_threshold(np.arange(100) + 2**24, tpr=0.9).value == 2**24 + 9
    accepted = choose_threshold(np.arange(100) + 2**24, tpr=0.9).accept(torch.tensor([2**24 + 8, 2**24 + 9]))
    assert accepted.tolist() == [False, True]


def test_integers_that_floats_would_round_are_refused():
    large = np.array([2**53 + 1, 2**53 + 2])
    assert conformal_p_values(large, large).tolist() == pytest.approx([2 / 3, 1])
    for call in (lambda: conformal_p_values(large, [0.5]), lambda: conformal_discoveries([0.5], large)):
        with pytest.raises(UserError, match=r"holds integers above 2\^53"):
            call()
    with pytest.raises(UserError, match=r"held_out holds integers above 2\^53"):
        choose_threshold(np.tile(large, 50))
    with pytest.raises(UserError, match=r"held_out_scores holds integers above 2\^53"):
        ScoreEnsemble().fit(np.stack([large, large]))
