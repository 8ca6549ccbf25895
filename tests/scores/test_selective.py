from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import trapezoid

from ood_nc.errors import UserError
from ood_nc.scores import EmptySideError, NanScoreError, augrc, aurc, auroc, excess_aurc, oscr


def example(seed=0, n=60, decimals=1):
    rng = np.random.default_rng(seed)
    correct = rng.random(n) < 0.7
    return np.round(rng.normal(correct, 1), decimals), correct


def area_of_one_order(correct):
    risk = np.cumsum(~correct) / np.arange(1, len(correct) + 1)
    return risk.mean()


def test_aurc_without_ties_by_definition():
    scores, correct = example(decimals=9)
    assert aurc(scores, correct) == pytest.approx(area_of_one_order(correct[np.argsort(-scores)]), abs=1e-12)


def test_aurc_with_ties_is_the_mean_over_orders():
    scores, correct = example(n=20, decimals=0)
    rng = np.random.default_rng(0)
    orders = [np.lexsort((rng.random(20), -scores)) for _ in range(20000)]
    assert aurc(scores, correct) == pytest.approx(np.mean([area_of_one_order(correct[o]) for o in orders]), abs=2e-3)


@given(st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_augrc_identity(seed):
    scores, correct = example(seed)
    if correct.all() or not correct.any():
        return
    accuracy = correct.mean()
    area = auroc(scores[correct], scores[~correct])
    expected = (1 - area) * accuracy * (1 - accuracy) + (1 - accuracy) ** 2 / 2
    assert augrc(scores, correct) == pytest.approx(expected, abs=1e-12)


def test_augrc_is_the_plain_mean_less_its_bias():
    scores, correct = example(decimals=9)
    plain = (np.cumsum(~correct[np.argsort(-scores)]) / len(scores)).mean()
    assert augrc(scores, correct) == pytest.approx(plain - (1 - correct.mean()) / (2 * len(scores)), abs=1e-12)


def test_excess_is_zero_for_the_best_order_only():
    scores, correct = example()
    assert excess_aurc(correct.astype(float) + 0.01 * np.arange(60) * correct, correct) == pytest.approx(0.0, abs=0.02)
    perfect = np.where(correct, 100, 0) + np.arange(60) / 100
    assert excess_aurc(perfect, correct) == pytest.approx(0, abs=1e-12)
    assert excess_aurc(scores, correct) > 0.01
    assert aurc(np.arange(3.0), np.ones(3, bool)) == 0
    assert aurc(np.arange(3.0), np.zeros(3, bool)) == 1


def test_oscr_by_its_curve():
    scores, correct = example()
    outside = np.round(np.random.default_rng(1).normal(0, 1, 40), 1)
    thresholds = np.unique(np.r_[scores, outside, np.inf])[::-1]
    right = [np.mean((scores >= t) & correct) for t in thresholds]
    false = [np.mean(outside >= t) for t in thresholds]
    assert oscr(scores, correct, outside) == pytest.approx(trapezoid(right, false), abs=1e-12)
    assert oscr(scores, np.zeros(60, bool), outside) == 0
    assert oscr(scores, np.ones(60, bool), outside) == pytest.approx(auroc(scores, outside))


def test_errors():
    with pytest.raises(EmptySideError):
        aurc([], [])
    with pytest.raises(NanScoreError, match="first at index 1"):
        augrc([1.0, float("nan")], [True, False])
    with pytest.raises(UserError, match=r"shape \(2,\) like scores, got \(3,\)"):
        aurc([1.0, 2.0], [True, False, True])
    with pytest.raises(EmptySideError):
        oscr([1.0], [False], [])
