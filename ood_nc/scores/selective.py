"""Selective classification and open-set metrics: how well scores separate right from wrong, OOD samples included.

``scores`` are larger for more trustworthy samples, ``correct`` says which predictions are right; an OOD sample counts
as wrong. All metrics depend on ranks alone and do not depend on the order of tied samples.
"""

from __future__ import annotations

import numpy as np

from ood_nc.arrays import ArrayLike, as_tensor
from ood_nc.errors import UserError
from ood_nc.scores.counts import Array
from ood_nc.scores.errors import EmptySideError, refuse_nan
from ood_nc.scores.metrics import auroc
from ood_nc.scores.ranking import as_scores


def aurc(scores: ArrayLike, correct: ArrayLike) -> float:
    """Area under the risk-coverage curve: mean over k of the error rate among the k highest scores.

    Geifman & El-Yaniv (NeurIPS 2017). Where scores tie, the mean over all orders of the tied samples.

    Args:
        scores: (N,).
        correct: (N,) bool.

    Raises:
        EmptySideError, NanScoreError: no scores, or NaN.
        UserError: the lengths differ.

    Example:
        >>> from ood_nc.scores import aurc
        >>> aurc([0.9, 0.8, 0.3, 0.1], [True, True, True, False])
        0.0625
    """
    values, right = _checked(scores, correct)
    covered, wrong = _cumulative_errors(values, right)
    # Inside a group of ties the expected number of errors grows linearly with the coverage.
    expected = np.interp(np.arange(1, len(values) + 1), covered, wrong)
    return float((expected / np.arange(1, len(values) + 1)).mean())


def excess_aurc(scores: ArrayLike, correct: ArrayLike) -> float:
    """E-AURC: :func:`aurc` minus that of the best possible order, all right samples first (Geifman et al., ICLR 2019).

    The optimum is summed exactly, not approximated by r + (1 - r) ln(1 - r).

    Example:
        >>> from ood_nc.scores import excess_aurc
        >>> excess_aurc([0.9, 0.8, 0.3, 0.1], [True, True, True, False])
        0.0
    """
    values, right = _checked(scores, correct)
    count = np.arange(1, len(values) + 1)
    best = float((np.maximum(count - int(right.sum()), 0) / count).mean())
    return aurc(values, right) - best


def augrc(scores: ArrayLike, correct: ArrayLike) -> float:
    """Area under the generalised risk-coverage curve (Traub et al., NeurIPS 2024): risk = errors accepted / N.

    By the trapezoid rule from coverage 0, so that AUGRC = (1 - AUROC) acc (1 - acc) + (1 - acc)^2 / 2 holds exactly,
    AUROC being that of right against wrong samples.

    Example:
        >>> from ood_nc.scores import augrc
        >>> augrc([0.9, 0.8, 0.3, 0.1], [True, True, True, False])
        0.03125
    """
    values, right = _checked(scores, correct)
    covered, wrong = _cumulative_errors(values, right)
    area = ((wrong[1:] + wrong[:-1]) * np.diff(covered)).sum() / 2
    return float(area) / len(values) ** 2


def oscr(id_scores: ArrayLike, id_correct: ArrayLike, ood_scores: ArrayLike) -> float:
    """Area under the open-set classification rate curve (Dhamija et al., NeurIPS 2018).

    The share of ID samples both right and above the threshold, against the share of OOD samples above it. By the
    trapezoid rule it equals the ID accuracy times the AUROC of the right ID samples against OOD.

    Args:
        id_scores: (n,).
        id_correct: (n,) bool.
        ood_scores: (m,).

    Raises:
        EmptySideError, NanScoreError: a side holds no scores, or NaN.

    Example:
        >>> from ood_nc.scores import oscr
        >>> oscr([0.9, 0.8], [True, False], [0.1, 0.85])
        0.5
    """
    values, right = _checked(id_scores, id_correct)
    outside = as_scores(ood_scores, "ood_scores")
    if not right.any():
        # Checks the OOD side all the same.
        auroc(values, outside)
        return 0.0
    return float(right.mean()) * auroc(values[right], outside)


def _checked(scores: ArrayLike, correct: ArrayLike) -> tuple[Array, Array]:
    values = as_scores(scores, "scores")
    right = as_tensor(correct, "correct").cpu().numpy().astype(bool)
    if not len(values):
        raise EmptySideError(0, 0, "selective")
    if right.shape != values.shape:
        raise UserError(f"correct must have shape {values.shape} like scores, got {right.shape}.")
    refuse_nan(values, "scores")
    return values, right


def _cumulative_errors(values: Array, right: Array) -> tuple[Array, Array]:
    """Samples covered and errors among them, at 0 and after each group of tied scores, the highest first."""
    order = np.argsort(values)[::-1]
    ordered = values[order]
    ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)
    wrong = np.cumsum(~right[order])
    return np.concatenate([[0], ends + 1]), np.concatenate([[0], wrong[ends]])
