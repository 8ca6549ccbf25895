"""Accounting against published oracles, quadrature and Opacus."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import trapezoid
from scipy.stats import norm

from ood_nc.errors import UserError
from ood_nc.privacy import Mechanism, epsilon_of, gaussian_delta, gaussian_epsilon, noise_for, zcdp_epsilon


def test_the_oracles() -> None:
    assert noise_for(1.0, 1e-5) == pytest.approx(3.7306, abs=5e-5)
    assert noise_for(1.0, 1e-5, accountant="zcdp") == pytest.approx(4.9006, abs=5e-5)
    run = [Mechanism(10.0, steps=100)]
    assert epsilon_of(run, 1e-5, "zcdp") == pytest.approx(5.2985, abs=5e-5)
    assert epsilon_of(run, 1e-5) == pytest.approx(4.377, abs=5e-4)
    assert epsilon_of([Mechanism(20.0, steps=100)], 1e-5, "zcdp") == pytest.approx(2.52, abs=5e-3)


def test_rdp_by_opacus() -> None:
    pytest.importorskip("opacus")
    run = [Mechanism(20.0, steps=100)]
    assert epsilon_of(run, 1e-5, "rdp") == pytest.approx(2.17, abs=5e-3)
    assert epsilon_of(run, 1e-5) < epsilon_of(run, 1e-5, "rdp") < epsilon_of(run, 1e-5, "zcdp")
    sampled = [Mechanism(1.0, 0.01, 1000)]
    assert epsilon_of(sampled, 1e-5, "rdp") < epsilon_of([Mechanism(1.0, 1.0, 1000)], 1e-5, "rdp") / 10


@pytest.mark.parametrize(("sigma", "epsilon"), [(0.7, 0.3), (1.0, 1.0), (3.0, 0.1), (0.5, 6.0)])
def test_delta_is_the_hockey_stick_divergence_by_quadrature(sigma: float, epsilon: float) -> None:
    x = np.linspace(-30, 31, 400_001)
    gap = norm.pdf(x, 1, sigma) - math.exp(epsilon) * norm.pdf(x, 0, sigma)
    assert gaussian_delta(sigma, epsilon) == pytest.approx(trapezoid(np.maximum(gap, 0), x), rel=1e-6)


@pytest.mark.parametrize("epsilon", [0.01, 0.5, 1.0, 8.0, 50.0])
@pytest.mark.parametrize("accountant", ["analytic", "zcdp"])
def test_the_noise_never_exceeds_the_target_and_wastes_nothing(epsilon: float, accountant: str) -> None:
    paid = [Mechanism(100 / epsilon)]
    sigma = noise_for(epsilon, 1e-6, steps=50, accountant=accountant, others=paid)
    found = epsilon_of([*paid, Mechanism(sigma, steps=50)], 1e-6, accountant)
    assert 0.99999 * epsilon < found <= epsilon


def test_extremes() -> None:
    assert epsilon_of([], 1e-5) == 0
    assert epsilon_of([Mechanism(0.0)], 1e-5) == math.inf
    assert gaussian_epsilon(1e6, 1e-5) == 0
    assert zcdp_epsilon(0.0, 1e-5) == 0


def test_mistakes_are_one_line() -> None:
    with pytest.raises(UserError, match="full batches only"):
        epsilon_of([Mechanism(1.0, 0.5)], 1e-5)
    with pytest.raises(UserError, match="Did you mean 'zcdp'"):
        epsilon_of([Mechanism(1.0)], 1e-5, "zdcp")
    with pytest.raises(UserError, match=r"delta must be in \(0, 1\), got 0"):
        epsilon_of([Mechanism(1.0)], 0.0)
    with pytest.raises(UserError, match="use up epsilon 1"):
        noise_for(1.0, 1e-5, others=[Mechanism(0.1)])
    with pytest.raises(UserError, match="epsilon must be positive and finite"):
        noise_for(math.inf, 1e-5)
