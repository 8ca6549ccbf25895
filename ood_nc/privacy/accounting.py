"""What a sequence of Gaussian mechanisms costs: (epsilon, delta) in zCDP, in a tight closed form, and by Opacus.

Two sets of records are neighbours if one is the other without a record; the number of records that sums are divided by
is taken as public. A mechanism adds noise of standard deviation ``noise_multiplier`` times its sensitivity, the largest
2-norm that one record can add.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from scipy.special import log_ndtr

from ood_nc.errors import MissingPackageError, UserError, nearest

ADJACENCY = "add or remove one record, the number of records being public"

ACCOUNTANTS = ("analytic", "zcdp", "rdp", "prv")
"""``analytic`` is exact for full-batch steps; ``zcdp`` bounds them; ``rdp`` and ``prv``, of Opacus, take any rate."""


class Mechanism(NamedTuple):
    """A Gaussian mechanism, run ``steps`` times, each on a Poisson sample of the records at ``sample_rate``.

    Example:
        >>> from ood_nc.privacy import Mechanism
        >>> Mechanism(noise_multiplier=2.0, steps=10)
        Mechanism(noise_multiplier=2.0, sample_rate=1.0, steps=10)
    """

    noise_multiplier: float
    sample_rate: float = 1.0
    steps: int = 1


def gaussian_delta(sigma: float, epsilon: float) -> float:
    """The smallest delta of one Gaussian mechanism at ``epsilon``: noise ``sigma`` on a sensitivity of 1.

    Phi(1/(2 sigma) - epsilon sigma) - e^epsilon Phi(-1/(2 sigma) - epsilon sigma) (Balle and Wang, ICML 2018, th. 8).

    Example:
        >>> from ood_nc.privacy import gaussian_delta
        >>> round(gaussian_delta(3.7306, 1.0), 7)
        1e-05
    """
    _check(sigma > 0, "sigma", "positive", sigma)
    first = log_ndtr(0.5 / sigma - epsilon * sigma)
    second = epsilon + log_ndtr(-0.5 / sigma - epsilon * sigma)
    return float(-math.exp(first) * math.expm1(min(second - first, 0.0)))


def gaussian_epsilon(sigma: float, delta: float) -> float:
    """The smallest epsilon of one Gaussian mechanism at ``delta``, from above, to 1e-9.

    Example:
        >>> from ood_nc.privacy import gaussian_epsilon
        >>> round(gaussian_epsilon(1.0, 1e-5), 3)
        4.377
    """
    _check(0 < delta < 1, "delta", "in (0, 1)", delta)
    if gaussian_delta(sigma, 0.0) <= delta:
        return 0.0
    return _smallest(lambda epsilon: gaussian_delta(sigma, epsilon) <= delta, tolerance=1e-10)


def zcdp_epsilon(rho: float, delta: float) -> float:
    """rho + 2 sqrt(rho ln(1/delta)): what rho-zCDP guarantees (Bun and Steinke, TCC 2016, prop. 1.3).

    Example:
        >>> from ood_nc.privacy import zcdp_epsilon
        >>> round(zcdp_epsilon(rho=0.5, delta=1e-5), 4)
        5.2985
    """
    _check(rho >= 0, "rho", "not negative", rho)
    _check(0 < delta < 1, "delta", "in (0, 1)", delta)
    return rho + 2 * math.sqrt(rho * math.log(1 / delta))


def epsilon_of(mechanisms: Iterable[Mechanism], delta: float, accountant: str = "analytic") -> float:
    """The epsilon of mechanisms run one after the other, each of which may look at the results of those before.

    T full-batch steps at noise s are, exactly, one at s / sqrt(T) (Dong, Roth, Su, JRSS B 2022, cor. 2), which
    ``analytic`` uses; ``zcdp`` adds up rho = T / (2 s^2).

    Args:
        mechanisms: all that read the records.
        delta: the probability that is left.
        accountant: of `ACCOUNTANTS`.

    Raises:
        UserError: an unknown accountant, or a sample rate below 1 for one that knows full batches only.
        MissingPackageError: ``rdp`` or ``prv`` without Opacus.

    Example:
        >>> from ood_nc.privacy import Mechanism, epsilon_of
        >>> run = [Mechanism(noise_multiplier=10, steps=100)]
        >>> round(epsilon_of(run, 1e-5), 3), round(epsilon_of(run, 1e-5, "zcdp"), 3)
        (4.377, 5.299)
    """
    spent = [mechanism for mechanism in mechanisms if mechanism.steps]
    _check(0 < delta < 1, "delta", "in (0, 1)", delta)
    if accountant not in ACCOUNTANTS:
        known = ", ".join(ACCOUNTANTS)
        raise UserError(f"Unknown accountant {accountant!r}: use {known}.{nearest(accountant, ACCOUNTANTS)}")
    if not spent:
        return 0.0
    if any(mechanism.noise_multiplier <= 0 for mechanism in spent):
        return math.inf
    if accountant in ("rdp", "prv"):
        return _opacus_epsilon(spent, delta, accountant)
    if any(mechanism.sample_rate != 1 for mechanism in spent):
        raise UserError(f"The accountant {accountant} knows full batches only: use rdp or prv for Poisson samples.")
    squared = sum(mechanism.steps / mechanism.noise_multiplier**2 for mechanism in spent)
    return zcdp_epsilon(squared / 2, delta) if accountant == "zcdp" else gaussian_epsilon(squared**-0.5, delta)


def noise_for(
    epsilon: float,
    delta: float,
    *,
    steps: int = 1,
    sample_rate: float = 1.0,
    accountant: str = "analytic",
    others: Sequence[Mechanism] = (),
) -> float:
    """The smallest noise multiplier with which all that is run stays within (epsilon, delta), from above.

    Args:
        epsilon: the target, never exceeded.
        delta: likewise.
        steps: how often the mechanism is run.
        sample_rate: of its Poisson samples; 1 for full batches.
        accountant: of `ACCOUNTANTS`.
        others: mechanisms paid from the same budget.

    Raises:
        UserError: a target that is not positive, or that the others use up.

    Example:
        >>> from ood_nc.privacy import noise_for
        >>> round(noise_for(1.0, 1e-5), 4), round(noise_for(1.0, 1e-5, accountant="zcdp"), 4)
        (3.7306, 4.9006)
    """
    _check(0 < epsilon < math.inf, "epsilon", "positive and finite", epsilon)
    _check(0 < sample_rate <= 1, "the sample rate", "in (0, 1]", sample_rate)
    _check(steps >= 1, "steps", "at least 1", steps)

    def within(sigma: float) -> bool:
        return epsilon_of([*others, Mechanism(sigma, sample_rate, steps)], delta, accountant) <= epsilon

    if others and epsilon_of(others, delta, accountant) >= epsilon:
        raise UserError(f"The other mechanisms use up epsilon {epsilon:g}: give them more noise, or a larger epsilon.")
    return _smallest(within, tolerance=1e-3 if accountant in ("rdp", "prv") else 1e-10)


def _opacus_epsilon(mechanisms: Sequence[Mechanism], delta: float, accountant: str) -> float:
    try:
        from opacus.accountants import create_accountant
    except ImportError:
        raise MissingPackageError(f"The accountant {accountant} needs Opacus: pip install ood_nc[privacy].") from None
    ledger = create_accountant(mechanism=accountant)
    ledger.history = [tuple(mechanism) for mechanism in mechanisms]
    with warnings.catch_warnings():  # that the best order is the largest: the bound holds all the same
        warnings.simplefilter("ignore")
        return float(ledger.get_epsilon(delta=delta))


def _smallest(holds: Callable[[float], bool], *, tolerance: float) -> float:
    """The smallest positive number from which on ``holds`` is true, from above, to a relative ``tolerance``."""
    high = 1.0
    while not holds(high):
        high *= 2
        if high > 1e9:
            raise UserError("No noise is enough for so small a budget: raise epsilon or delta.")
    low = high / 2
    while low > 1e-9 and holds(low):
        low, high = low / 2, low
    while high - low > tolerance * high:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _check(holds: bool, name: str, wanted: str, got: float) -> None:
    if not holds:
        raise UserError(f"{name} must be {wanted}, got {got:g}.")
