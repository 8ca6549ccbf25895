"""The law against plants whose answer is known: first-order lags, and one that cannot reach the target."""

from __future__ import annotations

import math

import pytest

from ood_nc.training.steering import LARGEST_WEIGHT, PATIENCE, TOLERANCE, UNIT, Steering

STEPS = 200


def run(steering: Steering, *, gain: float, lag: float, start: float, top: float = math.inf) -> list[float]:
    """A value that follows gain * asinh(weight / unit) from ``start`` within ``lag`` of the run, ``top`` at most."""
    natural = value = start
    course = []
    for _ in range(STEPS):
        steering.update(value, 1 / STEPS)
        aim = min(natural + gain * math.asinh(steering.weight / UNIT), top)
        value += (aim - value) * (1 - math.exp(-1 / (STEPS * lag)))
        course.append(value)
    return course


@pytest.mark.parametrize("gain", [0.3, 0.6, 1.5])
@pytest.mark.parametrize("lag", [0.01, 0.05])
@pytest.mark.parametrize("change", [-1.2, 1.2])
def test_it_lands_without_swinging(gain: float, lag: float, change: float) -> None:
    course = run(Steering(target=change), gain=gain, lag=lag, start=0.0)
    assert abs(course[-1] - change) < TOLERANCE
    overshoot = max(value * math.copysign(1, change) for value in course) - abs(change)
    assert overshoot < 0.25 * abs(change)
    late = course[-STEPS // 10 :]
    assert max(late) - min(late) < TOLERANCE


def test_one_update_in_closed_form() -> None:
    steering = Steering(target=1.0)
    steering.update(0.6, 0.25)
    # Integral 16 * 0.4 * 0.25, proportional 1.5 * 0.4.
    assert steering.weight == pytest.approx(UNIT * math.sinh(1.6 + 0.6))
    steering.update(5.0, 0.25)  # an error of -4 counts for -1
    assert steering.weight == pytest.approx(UNIT * math.sinh(1.6 - 4.0 - 1.5))


@pytest.mark.parametrize(("side", "sign"), [("above", 1), ("below", -1)])
def test_a_side_that_is_met_costs_nothing(side, sign) -> None:
    steering = Steering(target=0.0, side=side)
    for _ in range(50):
        steering.update(sign * 0.5, 0.02)
        assert steering.weight == 0
    assert not steering.gives_up
    steering.update(-sign * 0.5, 0.02)
    assert steering.weight * sign > 0  # and no windup to pay back


def test_it_gives_up_where_the_target_is_out_of_reach_and_not_before() -> None:
    steering = Steering(target=1.0)
    run(steering, gain=1.0, lag=0.02, start=0.0, top=0.0)
    assert steering.gives_up
    assert steering.weight == pytest.approx(LARGEST_WEIGHT)
    patient = Steering(target=1.0)
    patient.update(0.0, 10.0)  # at its end at once
    patient.update(0.0, PATIENCE / 2)
    stuck = patient.gives_up
    near = Steering(target=1.0)
    near.update(0.0, 10.0)
    near.update(1.0 - TOLERANCE / 2, PATIENCE * 3)
    assert stuck and not near.gives_up


def test_it_comes_back_when_the_value_does() -> None:
    steering = Steering(target=1.0)
    for _ in range(100):
        steering.update(0.0, 0.01)
    steering.update(2.0, 0.1)
    assert not steering.gives_up
    assert steering.weight < LARGEST_WEIGHT / 2


def test_it_goes_on_from_its_state() -> None:
    first, second = Steering(target=1.0), Steering(target=1.0)
    for _ in range(7):
        first.update(0.3, 0.01)
    second.load_state_dict(first.state_dict())
    for steering in (first, second):
        steering.update(0.4, 0.01)
    assert second.state_dict() == first.state_dict()
