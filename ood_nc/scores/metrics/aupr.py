"""Area under the precision-recall curve, either side positive."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ood_nc.arrays import ArrayLike
from ood_nc.errors import UserError
from ood_nc.scores.counts import Array, RankCounts
from ood_nc.scores.metrics._sides import Side, check_side
from ood_nc.scores.ranking import measure
from ood_nc.scores.registry import ScoreMetric, score_metric


def _precision(found: Array, alarms: Array) -> Array:
    # In a resample fewer than one sample may lie beyond a threshold.
    flagged = found + alarms
    share: Array = found / np.maximum(flagged, 1, out=flagged)
    return share


@score_metric("aupr_in", "step-wise average precision, ID positive", "sum")
def id_positive(counts: RankCounts) -> Array:
    """Every ID sample adds the share of ID among the samples at its score or above."""
    steps: Array = np.einsum("rg,rg->r", counts.id, _precision(counts.id_above, counts.ood_above))
    return steps / counts.n


@score_metric("aupr_out", "step-wise average precision, OOD positive", "sum")
def ood_positive(counts: RankCounts) -> Array:
    """Every OOD sample adds the share of OOD among the samples at its score or below."""
    steps: Array = np.einsum("rg,rg->r", counts.ood, _precision(counts.ood_through, counts.id_through))
    return steps / counts.m


def _trapezoid(found: Array, alarms: Array, here: Array, beside: Array, total: int) -> Array:
    """``here`` and ``beside``: positive and other samples of the group itself; before them precision is 1 of none."""
    before, flagged = found - here, found - here + alarms - beside
    precision_before = np.where(flagged > 0, before / np.maximum(flagged, 1), 1.0)
    area: Array = (here * (_precision(found, alarms) + precision_before)).sum(axis=-1)
    return area / (2 * total)


def _trapezoid_id(c: RankCounts) -> Array:
    return _trapezoid(c.id_above, c.ood_above, c.id, c.ood, c.n)


def _trapezoid_ood(c: RankCounts) -> Array:
    return _trapezoid(c.ood_through, c.id_through, c.ood, c.id, c.m)


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
