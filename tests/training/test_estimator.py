"""The value between measurements, where what the batches say of it is known."""

from __future__ import annotations

import numpy as np
import pytest

from ood_nc.training.estimator import Estimator


def followed(values: np.ndarray, quantities: np.ndarray) -> tuple[Estimator, list[float]]:
    """The errors of the estimate just before each measurement but the first; ten batches lie between two."""
    estimator, errors = Estimator(), []
    for value, batches in zip(values, quantities, strict=True):
        for quantity in batches:
            estimator.take(float(quantity), kept=0.9)
        if estimator.value is not None:
            errors.append(estimator.value - value)
        estimator.correct(float(value))
    return estimator, errors


def test_the_share_is_of_least_squares() -> None:
    generator = np.random.default_rng(0)
    quantities = generator.normal(size=(8, 3))
    values = 0.1 * generator.normal(size=8) + quantities @ (0.05, 0.05, 0.05)
    estimator, _ = followed(values, quantities)
    average, averages = quantities[0, 0], []
    for row in quantities:
        for quantity in row:
            average = 0.9 * average + 0.1 * quantity
        averages.append(average)
    shown, moved = np.diff(values), np.diff(averages)
    kept = 0.9 ** np.arange(7)[::-1]
    rows = np.append(moved * np.sqrt(kept), np.sqrt(0.01 * 0.9**7))[:, None]
    (share,), *_ = np.linalg.lstsq(rows, np.append(shown * np.sqrt(kept), np.sqrt(0.01 * 0.9**7)), rcond=None)
    assert estimator.share == pytest.approx(np.clip(share, 0, 1))
    assert 0.01 < share < 0.99


def test_batches_that_tell_nothing_are_not_followed_and_those_that_tell_all_are() -> None:
    """Against the rule that a change of the average is a change of the value: 0.2 off where only noise changes it."""
    generator = np.random.default_rng(0)
    still = np.full(60, 2.0)
    deaf, errors = followed(still, generator.normal(3.0, 0.7, (60, 10)))
    assert deaf.share < 0.1 and np.std(errors[20:]) < 0.01
    walk = 2 + np.cumsum(generator.normal(0, 0.3, 60))
    rows = walk[:, None] + 1 + generator.normal(0, 0.05, (60, 10))
    heard, errors = followed(walk, rows)
    assert heard.share > 0.9 and np.std(errors[20:]) < 0.7 * np.std(np.diff(walk)[20:])  # the rest is the average's lag


def test_the_bias_follows_half_way_and_falls_by_two_at_most() -> None:
    estimator = Estimator()
    estimator.take(1.0, kept=0.0)
    assert not estimator.ready and estimator.value is None
    estimator.correct(1.5)
    assert estimator.ready and estimator.bias == 0.5
    estimator.take(1.0, kept=0.0)
    estimator.correct(2.5)
    assert estimator.bias == 1.0
    for _ in range(20):
        estimator.take(9.0, kept=0.0)
        estimator.correct(2.5)
    assert estimator.bias == -1.5


def test_without_a_batch_a_measurement_is_the_value() -> None:
    estimator = Estimator()
    estimator.correct(2.0)
    assert estimator.value == estimator.measured == 2.0 and not estimator.ready
    estimator.take(5.0, kept=0.5)
    assert estimator.value == 2.0
    estimator.correct(3.0)
    assert estimator.bias == -2.0


def test_it_goes_on_from_its_state() -> None:
    generator = np.random.default_rng(0)
    whole, _ = followed(generator.normal(size=5), generator.normal(size=(5, 10)))
    other = Estimator()
    other.load_state_dict(whole.state_dict())
    for estimator in (whole, other):
        estimator.take(0.3, kept=0.9)
        estimator.correct(0.7)
        estimator.take(0.1, kept=0.9)
    assert other.state_dict() == whole.state_dict() and other.share == whole.share
