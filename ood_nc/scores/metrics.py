"""OOD detection metrics: exact with ties, from ranks alone, every convention under its own name.

Scores are larger for more in-distribution samples. Nothing is transformed or cast to a narrower type, so a strictly
increasing change of all scores changes no metric. Infinite scores are allowed; NaN is refused.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from ood_nc.arrays import ArrayLike
from ood_nc.errors import UserError
from ood_nc.scores.ranking import Block, SortedScores, over_blocks, smallest_count, sort_scores

Side = Literal["id", "ood"]
METRICS = {
    "auroc": "P(ID score > OOD score) + P(tie) / 2",
    "fpr95_id_positive": "share of OOD accepted at the threshold that accepts at least 95 % of ID",
    "fpr95_ood_positive": "share of ID flagged at the threshold that flags at least 95 % of OOD (OpenOOD, pytorch-ood)",
    "fpr95_paper": "share of OOD above the sorted ID score at index round(0.05 n) (Harun et al., ICML 2025)",
    "aupr_in": "step-wise average precision, ID positive",
    "aupr_out": "step-wise average precision, OOD positive",
    "detection_error": "least mean of the two error rates over all thresholds",
}
"""What `detection_metrics` computes: name to definition."""


class _Sweep(NamedTuple):
    auroc: float
    aupr_in: float
    aupr_out: float
    detection_error: float


def auroc(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Area under the ROC curve: P(id > ood) + 0.5 P(tie), the Mann-Whitney statistic.

    Args:
        id_scores: scores of in-distribution samples, shape (n,).
        ood_scores: scores of out-of-distribution samples, shape (m,).

    Raises:
        EmptySideError: a side holds no scores.
        NanScoreError: a score is NaN.
    """
    return _sweep(sort_scores(id_scores, ood_scores)).auroc


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
    """
    if not 0 < tpr <= 1:
        raise UserError(f"tpr must be in (0, 1], got {tpr}.")
    _check_side(positive)
    return _fpr(sort_scores(id_scores, ood_scores), tpr, positive)


def fpr95_paper(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """FPR at 95 % TPR as in the released code of Harun et al. (ICML 2025): ID positive, another threshold rule.

    The threshold is the ascending ID score at index round(0.05 n), halves to even; an OOD score strictly above it
    counts as accepted.

    Raises:
        EmptySideError: a side holds no scores.
        NanScoreError: a score is NaN.
    """
    return _fpr_paper(sort_scores(id_scores, ood_scores))


def aupr(
    id_scores: ArrayLike,
    ood_scores: ArrayLike,
    positive: Side = "id",
    interpolation: Literal["step", "trapezoid"] = "step",
) -> float:
    """Area under the precision-recall curve; depends on the base rate n / (n + m), so report the counts beside it.

    ``"step"`` is average precision, sum over distinct thresholds of (R_k - R_(k-1)) P_k, as scikit-learn's.
    ``"trapezoid"`` joins the points (the first at recall 0, precision 1) linearly, which is optimistic; it is here to
    compare with OpenOOD.

    Args:
        id_scores: shape (n,), larger = more in-distribution.
        ood_scores: shape (m,).
        positive: ``"id"`` gives aupr_in, ``"ood"`` gives aupr_out (scores negated).
        interpolation: between the points of the curve.

    Raises:
        EmptySideError: a side holds no scores.
        NanScoreError: a score is NaN.
        UserError: ``positive`` or ``interpolation`` unknown.
    """
    _check_side(positive)
    scores = sort_scores(id_scores, ood_scores)
    if interpolation == "step":
        swept = _sweep(scores)
        return swept.aupr_in if positive == "id" else swept.aupr_out
    if interpolation != "trapezoid":
        raise UserError(f"interpolation must be 'step' or 'trapezoid', got {interpolation!r}.")
    return _aupr_trapezoid(scores, positive)


def detection_error(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Smallest mean of the two error rates over all thresholds: min_t 0.5 P(id < t) + 0.5 P(ood >= t).

    Both sides weigh the same whatever their sizes (Liang et al., ODIN, ICLR 2018).

    Raises:
        EmptySideError: a side holds no scores.
        NanScoreError: a score is NaN.
    """
    return _sweep(sort_scores(id_scores, ood_scores)).detection_error


def detection_metrics(id_scores: ArrayLike, ood_scores: ArrayLike) -> dict[str, float]:
    """All metrics from one sort of each side and one merge.

    Returns:
        ``auroc``, ``fpr95_id_positive``, ``fpr95_ood_positive``, ``fpr95_paper``, ``aupr_in``, ``aupr_out`` (both
        step-wise) and ``detection_error``, in [0, 1].

    Raises:
        EmptySideError: a side holds no scores.
        NanScoreError: a score is NaN.
    """
    return metrics_of_sorted(sort_scores(id_scores, ood_scores))


def metrics_of_sorted(scores: SortedScores) -> dict[str, float]:
    """:func:`detection_metrics` of scores that are sorted already."""
    swept = _sweep(scores)
    return {
        "auroc": swept.auroc,
        "fpr95_id_positive": _fpr(scores, 0.95, "id"),
        "fpr95_ood_positive": _fpr(scores, 0.95, "ood"),
        "fpr95_paper": _fpr_paper(scores),
        "aupr_in": swept.aupr_in,
        "aupr_out": swept.aupr_out,
        "detection_error": swept.detection_error,
    }


def _sweep(scores: SortedScores) -> _Sweep:
    n, m = len(scores.id), len(scores.ood)

    def summarize(block: Block) -> tuple[int, float, float, int]:
        accepted_ood = m - block.ood_below
        precision_in = block.id_at_or_above / (block.id_at_or_above + accepted_ood)
        precision_out = block.ood_at_or_below / (block.ood_at_or_below + block.id_at_or_below)
        # Inside a group of ties the later entries overstate the error, and the first is exact: the minimum is right.
        lost_id = np.arange(block.start, block.start + len(accepted_ood))
        error = int((lost_id * m + accepted_ood * n).min())
        pairs_won = 2 * int(block.ood_below.sum()) + block.tied_pairs
        return pairs_won, float(precision_in.sum()), float(precision_out.sum()), error

    pairs_won, precision_in, precision_out, errors = zip(*over_blocks(scores, summarize), strict=True)
    return _Sweep(
        auroc=sum(pairs_won) / (2 * n * m),
        aupr_in=sum(precision_in) / n,
        aupr_out=sum(precision_out) / m,
        detection_error=min(*errors, n * m) / (2 * n * m),
    )


def _fpr(scores: SortedScores, tpr: float, positive: Side) -> float:
    id_sorted, ood_sorted = scores
    if positive == "id":
        threshold = id_sorted[len(id_sorted) - smallest_count(tpr, len(id_sorted))]
        return (len(ood_sorted) - int(np.searchsorted(ood_sorted, threshold, "left"))) / len(ood_sorted)
    threshold = ood_sorted[smallest_count(tpr, len(ood_sorted)) - 1]
    return int(np.searchsorted(id_sorted, threshold, "right")) / len(id_sorted)


def _fpr_paper(scores: SortedScores) -> float:
    id_sorted, ood_sorted = scores
    threshold = id_sorted[round(0.05 * len(id_sorted))]
    return (len(ood_sorted) - int(np.searchsorted(ood_sorted, threshold, "right"))) / len(ood_sorted)


def _aupr_trapezoid(scores: SortedScores, positive: Side) -> float:
    if positive == "id":
        hits, false_alarms = scores.id, scores.ood
        hit_values, counts = np.unique(hits, return_counts=True)
        found = np.cumsum(counts[::-1])[::-1]
        alarms = len(false_alarms) - np.searchsorted(false_alarms, hit_values, "left")
        alarms_before = len(false_alarms) - np.searchsorted(false_alarms, hit_values, "right")
    else:
        hits, false_alarms = scores.ood, scores.id
        hit_values, counts = np.unique(hits, return_counts=True)
        found = np.cumsum(counts)
        alarms = np.searchsorted(false_alarms, hit_values, "right")
        alarms_before = np.searchsorted(false_alarms, hit_values, "left")
    found_before = found - counts
    precision = found / (found + alarms)
    flagged_before = found_before + alarms_before
    precision_before = np.where(flagged_before > 0, found_before / np.maximum(flagged_before, 1), 1.0)
    return float((counts * (precision + precision_before)).sum() / (2 * len(hits)))


def _check_side(positive: str) -> None:
    if positive not in ("id", "ood"):
        raise UserError(f"positive must be 'id' or 'ood', got {positive!r}.")
