"""`compose`: what several heads from the same records cost together."""

from __future__ import annotations

import math

import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from ood_nc.errors import UserError
from ood_nc.privacy import ADJACENCY, Mechanism, Statement, compose, epsilon_of

DELTA = 1e-5


def statement(*mechanisms: Mechanism, delta: float = DELTA, accountant: str = "analytic") -> Statement:
    epsilon = epsilon_of(mechanisms, delta, accountant)
    return Statement(epsilon, delta, ADJACENCY, accountant, "noisy_gd", 1.0, mechanisms, 1000)


def gaussian_curve(mu: float) -> float:
    """The epsilon of mu-Gaussian differential privacy at DELTA, solved from its curve (Dong et al., corollary 2.13)."""

    def excess(epsilon: float) -> float:
        above = norm.cdf(-epsilon / mu + mu / 2) - math.exp(epsilon) * norm.cdf(-epsilon / mu - mu / 2)
        return float(above - DELTA)

    return float(brentq(excess, 0, 100))


def test_heads_together_cost_what_gaussian_privacy_composes_to() -> None:
    one, other = statement(Mechanism(20.0, 1.0, 100)), statement(Mechanism(5.0), Mechanism(30.0, 1.0, 50))
    mu = math.sqrt(2 * 100 / 20**2 + 1 / 5**2 + 50 / 30**2)
    found = compose([one, one, other])
    assert found.epsilon == pytest.approx(gaussian_curve(mu), rel=1e-6)
    assert max(one.epsilon, other.epsilon) < found.epsilon < 2 * one.epsilon + other.epsilon
    assert found.mechanisms == (Mechanism(20.0, 1.0, 200), Mechanism(5.0), Mechanism(30.0, 1.0, 50))
    assert (found.delta, found.records, found.accountant) == (DELTA, 1000, "analytic")


def test_rho_adds_up_and_one_alone_is_itself() -> None:
    one = statement(Mechanism(10.0, 1.0, 40), accountant="zcdp")
    rho = 3 * 40 / (2 * 10**2)
    assert compose([one] * 3).epsilon == pytest.approx(rho + 2 * math.sqrt(rho * math.log(1 / DELTA)))
    assert compose([one]) == one


def test_with_a_head_that_is_not_private_nothing_is() -> None:
    assert compose([statement(Mechanism(10.0)), statement(Mechanism(0.0))]).epsilon == math.inf


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"delta": 1e-6}, "different delta cannot be composed: 1e-05, 1e-06"),
        ({"accountant": "zcdp"}, "different accountant cannot be composed: analytic, zcdp"),
    ],
)
def test_statements_that_do_not_fit(other: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose([statement(Mechanism(10.0)), statement(Mechanism(10.0), **other)])
    with pytest.raises(UserError, match="no statement"):
        compose([])
