"""Audit: what an attacker who sees heads trained with and without one record proves about epsilon."""

from __future__ import annotations

import math

import torch
from scipy.stats import beta

from ood_nc.arrays import ArrayLike, as_tensor
from ood_nc.errors import UserError


def audited_epsilon(with_record: ArrayLike, without_record: ArrayLike, delta: float, confidence: float = 0.95) -> float:
    """A lower bound of epsilon from a membership test: at ``confidence``, no smaller one can be true.

    A mechanism that is (epsilon, delta)-private has TPR <= e^epsilon FPR + delta and 1 - FPR <= e^epsilon (1 - TPR) +
    delta for every test. The threshold is chosen on the first half of the scores; the rates are bounded, by Clopper and
    Pearson, on the other (Jagielski, Ullman, Oprea, NeurIPS 2020).

    Args:
        with_record: a score of each head trained with the record, larger where it looks present.
        without_record: likewise without.
        delta: of the statement that is audited.
        confidence: of the bound.

    Raises:
        UserError: fewer than four scores of either kind, one that is NaN, or a delta or confidence that is no share.

    Example:
        >>> from ood_nc.privacy import audited_epsilon
        >>> round(audited_epsilon([1.0] * 200, [0.0] * 200, delta=1e-5), 2)
        3.28
    """
    inside, outside = (as_tensor(scores).double().flatten() for scores in (with_record, without_record))
    if min(len(inside), len(outside)) < 4:
        raise UserError("An audit needs at least four scores with and without the record.")
    if bool(torch.cat([inside, outside]).isnan().any()) or not (0 <= delta < 1 and 0 < confidence < 1):
        raise UserError(
            f"An audit needs scores that are no NaN, and shares: got delta {delta}, confidence {confidence}."
        )
    (a, test_in), (b, test_out) = ((part[: len(part) // 2], part[len(part) // 2 :]) for part in (inside, outside))
    levels = torch.quantile(torch.cat([a, b]), torch.linspace(0, 1, 101, dtype=torch.float64)).unique()
    best = max(levels.tolist(), key=lambda level: _bound(a, b, level, delta, confidence))
    return max(0.0, _bound(test_in, test_out, best, delta, confidence))


def _bound(inside: torch.Tensor, outside: torch.Tensor, level: float, delta: float, confidence: float) -> float:
    miss = (1 - confidence) / 2
    hits, alarms = int((inside >= level).sum()), int((outside >= level).sum())
    tpr, tnr = _at_least(hits, len(inside), miss), _at_least(len(outside) - alarms, len(outside), miss)
    fpr, fnr = 1 - tnr, 1 - tpr
    return max(
        math.log((rate - delta) / wrong) if rate > delta else -math.inf for rate, wrong in ((tpr, fpr), (tnr, fnr))
    )


def _at_least(hits: int, n: int, miss: float) -> float:
    """Clopper and Pearson's lower bound of a share."""
    return 0.0 if hits == 0 else float(beta.ppf(miss, hits, n - hits + 1))
