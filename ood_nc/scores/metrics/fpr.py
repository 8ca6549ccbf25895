"""False positive rates at a true positive rate; every convention under its own name."""

from __future__ import annotations

import numpy as np

from ood_nc.arrays import ArrayLike
from ood_nc.errors import UserError
from ood_nc.scores.counts import Array, RankCounts, Side, check_side
from ood_nc.scores.ranking import measure, smallest_count
from ood_nc.scores.registry import ScoreMetric, score_metric


def _at(counts: Array, group: Array) -> Array:
    """The count at one group of each resample, (R,) float64."""
    inside = np.minimum(np.maximum(group, 0), counts.shape[-1] - 1)
    found: Array = counts[np.arange(len(group)), inside]
    return found.astype(np.float64)


def _inside(rank: int, group: Array, below: Array, through: Array, other_below: Array, other_through: Array) -> Array:
    """The other side's count below the sample of this rank, of a group whose samples are evenly spread."""
    start, other = _at(below, group), _at(other_below, group)
    share = np.clip((rank + 0.5 - start) / np.maximum(_at(through, group) - start, 1), 0, 1)
    found: Array = other + share * (_at(other_through, group) - other)
    return found


def _accepted(counts: RankCounts, rank: int, *, ties: bool) -> Array:
    """The share of OOD above the ID sample of this ascending rank, with those that tie with it or without."""
    at = counts.at_id
    highest = at.groups_below("id", rank + 1, through=False) - 1
    if at.spread:
        rejected = _inside(rank, highest, at.id_below, at.id_through, at.ood_below, at.ood_through)
    else:
        rejected = _at(at.ood_below if ties else at.ood_through, highest)
    # A stretch of groups may lie above the sample.
    return (counts.m - np.where(highest >= 0, rejected, 0)) / counts.m


def _id_positive(counts: RankCounts, tpr: float) -> Array:
    return _accepted(counts, counts.n - smallest_count(tpr, counts.n), ties=True)


def _ood_positive(counts: RankCounts, tpr: float) -> Array:
    needed = smallest_count(tpr, counts.m)
    at = counts.at_ood
    lowest = at.groups_below("ood", needed, through=True)
    if at.spread:
        flagged = _inside(needed - 1, lowest, at.ood_below, at.ood_through, at.id_below, at.id_through)
    else:
        flagged = _at(at.id_through, lowest)
    # A stretch of groups may lie below the sample.
    return np.where(lowest < at.ood_through.shape[-1], flagged, counts.n) / counts.n


@score_metric("fpr95_id_positive", "share of OOD accepted at the threshold that accepts at least 95 % of ID", "min")
def id_positive(counts: RankCounts) -> Array:
    """`fpr_at_tpr` at 95 %, ID positive."""
    return _id_positive(counts, 0.95)


@score_metric(
    "fpr95_ood_positive",
    "share of ID flagged at the threshold that flags at least 95 % of OOD (OpenOOD, pytorch-ood)",
    "min",
)
def ood_positive(counts: RankCounts) -> Array:
    """`fpr_at_tpr` at 95 %, OOD positive."""
    return _ood_positive(counts, 0.95)


@score_metric(
    "fpr95_paper", "share of OOD above the sorted ID score at index round(0.05 n) (Harun et al., ICML 2025)", "min"
)
def paper(counts: RankCounts) -> Array:
    """OOD samples above a threshold that at least n - round(0.05 n) ID samples reach."""
    return _accepted(counts, round(0.05 * counts.n), ties=False)


def fpr_at_tpr(id_scores: ArrayLike, ood_scores: ArrayLike, tpr: float = 0.95, positive: Side = "id") -> float:
    """False positive rate at the strictest threshold that keeps a share ``tpr`` of the positive side.

    ``positive="id"``: the smallest share of OOD scores >= t over thresholds t with share(ID >= t) >= tpr.
    ``positive="ood"``: the smallest share of ID scores <= t over thresholds t with share(OOD <= t) >= tpr; the
    convention of OpenOOD (since August 2023) and pytorch-ood. The two differ materially, so name the one you report.

    Args:
        id_scores: shape (n,), larger = more in-distribution.
        ood_scores: shape (m,).
        tpr: true positive rate to reach, in (0, 1].
        positive: the side counted as positive.

    Raises:
        EmptySideError, NanScoreError: a side holds no scores, or NaN.
        UserError: ``tpr`` or ``positive`` out of range.

    Example:
        >>> import numpy as np
        >>> from ood_nc.scores import fpr_at_tpr
        >>> ids, oods = np.arange(20) + 10.5, np.arange(30)
        >>> fpr_at_tpr(ids, oods), fpr_at_tpr(ids, oods, positive="ood")
        (0.6, 0.9)
    """
    if not 0 < tpr <= 1:
        raise UserError(f"tpr must be in (0, 1], got {tpr}.")
    check_side(positive)
    formula = _id_positive if positive == "id" else _ood_positive
    metric = ScoreMetric("", lambda counts: formula(counts, tpr), "min")
    return measure(id_scores, ood_scores, metric)


def fpr95_paper(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """FPR at 95 % TPR as in the released code of Harun et al. (ICML 2025): ID positive, another threshold rule.

    The threshold is the ascending ID score at index round(0.05 n), halves to even; an OOD score strictly above it
    counts as accepted.

    Raises:
        EmptySideError, NanScoreError: a side holds no scores, or NaN.

    Example:
        >>> import numpy as np
        >>> from ood_nc.scores import fpr95_paper
        >>> fpr95_paper(np.arange(20) + 10.5, np.arange(30))
        0.6
    """
    return measure(id_scores, ood_scores, paper)
