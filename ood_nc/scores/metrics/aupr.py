"""Area under the precision-recall curve, either side positive."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ood_nc.arrays import ArrayLike
from ood_nc.errors import UserError
from ood_nc.scores.counts import Array, RankCounts, Side, check_side
from ood_nc.scores.ranking import measure
from ood_nc.scores.registry import ScoreMetric, score_metric


def _precision(found: Array, alarms: Array) -> Array:
    flagged = found + alarms
    # In a resample fewer than one sample may lie beyond a threshold: an outermost one, if any.
    if min(flagged[:, 0].min(initial=1), flagged[:, -1].min(initial=1)) < 1:
        np.maximum(flagged, 1, out=flagged)
    share: Array = np.divide(found, flagged, out=flagged) if flagged.dtype.kind == "f" else found / flagged
    return share


@score_metric("aupr_in", "step-wise average precision, ID positive", "sum")
def id_positive(counts: RankCounts) -> Array:
    """Every ID sample adds the share of ID among the samples at its score or above."""
    at = counts.at_id
    return at.id_sum(_precision(at.id_above, at.ood_above)) / counts.n


@score_metric("aupr_out", "step-wise average precision, OOD positive", "sum")
def ood_positive(counts: RankCounts) -> Array:
    """Every OOD sample adds the share of OOD among the samples at its score or below."""
    at = counts.at_ood
    return at.ood_sum(_precision(at.ood_through, at.id_through)) / counts.m


def _precisions(found: Array, alarms: Array, found_before: Array, alarms_before: Array) -> Array:
    """Precision with a group and before it, where it is 1 of none; summed."""
    flagged = found_before + alarms_before
    before = np.where(flagged > 0, found_before / np.maximum(flagged, 1), 1.0)
    return _precision(found, alarms) + before


def _trapezoid_id(counts: RankCounts) -> Array:
    at = counts.at_id
    above = counts.n - at.id_through, counts.m - at.ood_through
    return at.id_sum(_precisions(at.id_above, at.ood_above, *above)) / (2 * counts.n)


def _trapezoid_ood(counts: RankCounts) -> Array:
    at = counts.at_ood
    return at.ood_sum(_precisions(at.ood_through, at.id_through, at.ood_below, at.id_below)) / (2 * counts.m)


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
        EmptySideError, NanScoreError: a side holds no scores, or NaN.
        UserError: ``positive`` or ``interpolation`` unknown.

    Example:
        >>> from ood_nc.scores import aupr
        >>> round(aupr([0.35, 0.8], [0.1, 0.4]), 4), aupr([3.0], [1.0], positive="ood")
        (0.8333, 1.0)
    """
    check_side(positive)
    if interpolation not in ("step", "trapezoid"):
        raise UserError(f"interpolation must be 'step' or 'trapezoid', got {interpolation!r}.")
    if interpolation == "step":
        return measure(id_scores, ood_scores, id_positive if positive == "id" else ood_positive)
    formula = _trapezoid_id if positive == "id" else _trapezoid_ood
    return measure(id_scores, ood_scores, ScoreMetric("", formula, "sum"))
