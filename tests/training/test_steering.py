"""The law against plants whose answer is known: first-order lags, and one that cannot reach the target."""

from __future__ import annotations

import math

import pytest
import torch

from ood_nc.training.steering import LOWEST_WEIGHT, PATIENCE, TOLERANCE, Steering

STEPS = 200


def run(steering: Steering, change: float, *, gain: float, lag: float, top: float = math.inf) -> list[float]:
    """The errors of a value that follows -gain * weight from 0 within ``lag`` of the run, ``top`` at most."""
    generator, value, average, errors = torch.Generator().manual_seed(0), 0.0, 0.0, []
    for _ in range(STEPS):
        noise = 0.1 * float(torch.randn((), generator=generator))
        aim = min(-gain * float(steering.weight(torch.tensor(value + noise - change))), top)
        value += (aim - value) * (1 - math.exp(-1 / (STEPS * lag)))
        average += 0.1 * (value + noise - average)
        steering.update(change - average, 1 / STEPS)
        errors.append(change - value)
    return errors


@pytest.mark.parametrize("gain", [2.0, 4.0, 8.0])
@pytest.mark.parametrize("lag", [0.1, 0.2])
@pytest.mark.parametrize("change", [-1.2, 1.2])
def test_it_lands_without_swinging(gain: float, lag: float, change: float) -> None:
    errors = run(Steering(), change, gain=gain, lag=lag)
    assert abs(sum(errors[-10:]) / 10) < TOLERANCE
    assert -min(error * math.copysign(1, change) for error in errors) < 0.45 * abs(change)  # overshoot


def test_updates_in_closed_form() -> None:
    steering = Steering()
    steering.update(0.2, 0.05)
    assert steering.multiplier == pytest.approx(-16 * 0.2 * 0.05)
    push = -12 * (0.05 / 0.4) * 0.2
    assert steering.level == pytest.approx(-0.16 + push - 2 * 0.2)
    assert float(steering.weight(torch.tensor(0.5))) == pytest.approx(-0.16 + push + 2 * 0.5)
    steering.update(-0.4, 0.02)  # of which the integral takes 0.3
    taken = -0.16 + 16 * 0.3 * 0.02
    assert steering.multiplier == pytest.approx(taken)
    assert float(steering.weight(torch.tensor(-0.9))) == pytest.approx(taken + 12 * (0.07 / 0.4) * 0.4 - 2 * 0.9)
    steering.update(-5.0, 0.5)  # counts for -1, which by itself is beyond the end: nothing winds up
    assert steering.multiplier == pytest.approx(taken)
    assert float(steering.weight(torch.tensor(-0.25))) == 1 - 2 * 0.25  # it ends at 1


@pytest.mark.parametrize(("damping", "counts"), [(1.0, 1.0), (0.5, 2.0), (0.02, 10.0)])
def test_the_push_makes_up_for_a_low_rate(damping: float, counts: float) -> None:
    steering = Steering()
    steering.update(0.01, 0.1, damping)
    assert steering.level == pytest.approx(-16 * 0.01 * 0.1 - 12 * (0.1 / 0.4) * counts * 0.01 - 2 * 0.01)


def test_the_ends_of_the_weight() -> None:
    steering = Steering()
    steering.update(1.0, 1.0)
    assert steering.level == LOWEST_WEIGHT
    assert float(steering.weight(torch.tensor(-2.0))) == LOWEST_WEIGHT
    assert float(steering.weight(torch.tensor(0.5))) == -3 + 2 * 0.5  # all have -3: one far above its aim is left alone
    assert float(steering.weight(torch.tensor(1.5))) == 0
    steering.update(-1.0, 1.0)
    assert float(steering.weight(torch.tensor(5.0))) == steering.level == 1
    steering.update(-1.0, 0.1, damping=0.8)
    assert steering.level == pytest.approx(1.25)
    steering.update(-1.0, 0.1, damping=0.1)
    assert steering.level == float(steering.weight(torch.tensor(5.0))) == 2


@pytest.mark.parametrize(("side", "sign"), [("above", 1), ("below", -1)])
def test_a_side_that_is_met_costs_nothing(side, sign) -> None:
    steering = Steering(side)
    for _ in range(50):
        steering.update(-sign * 0.5, 0.02)
        assert steering.level == 0 and steering.weight(torch.tensor(sign * 0.5)) == 0
    assert not steering.gives_up
    steering.update(sign * 0.5, 0.02)
    assert steering.level * sign < 0  # and no windup to pay back
    assert float(steering.weight(torch.tensor(-sign * 0.5))) * sign < 0


def test_it_gives_up_where_the_target_is_out_of_reach_and_not_before() -> None:
    steering = Steering()
    run(steering, 1.0, gain=1.0, lag=0.02, top=0.0)
    assert steering.gives_up
    assert steering.level == LOWEST_WEIGHT
    patient = Steering()
    patient.update(1.0, 10.0)  # at its end at once
    patient.update(1.0, PATIENCE / 2)
    stuck = patient.gives_up
    near = Steering()
    near.update(1.0, 10.0)
    near.update(TOLERANCE / 2, PATIENCE * 3)
    assert stuck and not near.gives_up


def test_it_comes_back_when_the_value_does() -> None:
    steering = Steering()
    for _ in range(100):
        steering.update(1.0, 0.01)
    steering.update(-1.0, 0.01)
    assert not steering.gives_up
    assert steering.level > LOWEST_WEIGHT / 2


def test_it_goes_on_from_its_state() -> None:
    first, second = Steering(), Steering()
    for _ in range(7):
        first.update(0.3, 0.01)
    second.load_state_dict(first.state_dict())
    for steering in (first, second):
        steering.update(0.4, 0.01)
    assert second.state_dict() == first.state_dict()
