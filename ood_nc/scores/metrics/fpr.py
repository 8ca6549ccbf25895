"""False positive rates at a true positive rate; every convention under its own name."""

from __future__ import annotations

import numpy as np

from ood_nc.arrays import ArrayLike
from ood_nc.errors import UserError
from ood_nc.scores.counts import Array, RankCounts
from ood_nc.scores.metrics._sides import Side, check_side
from ood_nc.scores.ranking import measure, smallest_count
from ood_nc.scores.registry import ScoreMetric, score_metric


def _at(below: Array, group: Array, otherwise: int) -> Array:
    """The count at one group of each resample (R,); ``otherwise`` where the stretch of groups does not reach so far."""
    groups = below.shape[-1]
    found: Array = np.take_along_axis(below, np.clip(group, 0, groups - 1)[:, None], axis=-1)[:, 0]
    return np.where((group >= 0) & (group < groups), found, otherwise)


def _accepted(counts: RankCounts, ood_rejected: Array, needed: int) -> Array:
    """The share of OOD accepted at the highest threshold that accepts so many ID samples."""
    highest = np.count_nonzero(counts.id_below <= counts.n - needed, axis=-1) - 1
    return (counts.m - _at(ood_rejected, highest, 0)) / counts.m


def _id_positive(counts: RankCounts, tpr: float) -> Array:
    return _accepted(counts, counts.ood_below, smallest_count(tpr, counts.n))


def _ood_positive(counts: RankCounts, tpr: float) -> Array:
    lowest = np.count_nonzero(counts.ood_through < smallest_count(tpr, counts.m), axis=-1)
    return _at(counts.id_through, lowest, counts.n) / counts.n


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
    return _accepted(counts, counts.ood_through, counts.n - round(0.05 * counts.n))


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
        EmptySideError: a side holds no scores.
        NanScoreError: a score is NaN.
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
        EmptySideError: a side holds no scores.
        NanScoreError: a score is NaN.

    Example:
        >>> import numpy as np
        >>> from ood_nc.scores import fpr95_paper
        >>> fpr95_paper(np.arange(20) + 10.5, np.arange(30))
        0.6
    """
    return measure(id_scores, ood_scores, paper)
