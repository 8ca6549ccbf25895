from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, false_discovery_control

from ood_nc.detection import (
    EmptySideError,
    NanScoreError,
    benjamini_hochberg,
    choose_class_thresholds,
    choose_threshold,
    conformal_p_values,
)
from ood_nc.errors import UserError


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


@pytest.mark.parametrize(
    "call",
    [
        lambda: choose_threshold([1.0], tpr=1.0),
        lambda: choose_threshold([1.0], confidence=0),
        lambda: benjamini_hochberg([0.5], level=1.0),
        lambda: benjamini_hochberg([1.5]),
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
