"""From scores to decisions: thresholds and p-values chosen on held-out ID data, with finite-sample guarantees.

The held-out scores must come from ID samples the detector was not fitted on, and never from OOD. If they and a new ID
score are exchangeable, everything here holds exactly, whatever the detector (split conformal prediction; Vovk et al.,
Algorithmic Learning in a Random World, 2005).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor

from ood_nc.arrays import ArrayLike, as_labels, as_tensor
from ood_nc.detection._ranking import Array, as_scores
from ood_nc.detection.errors import EmptySideError, NanScoreError
from ood_nc.errors import UserError


@dataclass(frozen=True)
class Threshold:
    """Accept a sample as in-distribution where its score is at least ``value``.

    Attributes:
        value: the threshold; -inf where too few held-out samples allow any rejection at this ``tpr``.
        tpr: the share of ID samples that is accepted at least, on average over held-out sets.
        samples: held-out ID samples it was chosen on.
        false_alarms_per_10000: ID images rejected out of 10,000, expected (fewer where scores tie).
        low: lower end of the interval of that number over held-out sets of this size.
        high: upper end.
    """

    value: float
    tpr: float
    samples: int
    false_alarms_per_10000: float
    low: float
    high: float

    def accept(self, scores: ArrayLike) -> Tensor:
        """Which samples are accepted as in-distribution, (B,) bool."""
        return as_tensor(scores, "scores") >= self.value


def choose_threshold(held_out: ArrayLike, tpr: float = 0.95, confidence: float = 0.95) -> Threshold:
    """The highest threshold that accepts a fresh ID sample with probability at least ``tpr``.

    It is the j-th smallest held-out score, j = floor((1 - tpr)(n + 1)). The false alarm rate it will have is
    Beta(j, n + 1 - j) distributed over held-out sets (exactly so for scores without ties), which gives the interval.

    Args:
        held_out: ID scores (n,), larger = more in-distribution.
        tpr: in (0, 1).
        confidence: of the interval of false alarms, in (0, 1).

    Raises:
        EmptySideError: no scores.
        NanScoreError: a score is NaN.
        UserError: ``tpr`` or ``confidence`` out of range.
    """
    if not (0 < tpr < 1 and 0 < confidence < 1):
        raise UserError(f"tpr and confidence must be in (0, 1), got {tpr} and {confidence}.")
    ordered = _sorted_calibration(held_out)
    n = len(ordered)
    rejected = _allowed_rejections(1 - tpr, n)
    if rejected == 0:
        return Threshold(-np.inf, tpr, n, 0.0, 0.0, 0.0)
    tail = (1 - confidence) / 2
    low, high = betaincinv(rejected, n + 1 - rejected, [tail, 1 - tail])
    return Threshold(
        value=float(ordered[rejected - 1]),
        tpr=tpr,
        samples=n,
        false_alarms_per_10000=1e4 * rejected / (n + 1),
        low=1e4 * float(low),
        high=1e4 * float(high),
    )


def choose_class_thresholds(
    held_out: ArrayLike, classes: ArrayLike, tpr: float = 0.95, confidence: float = 0.95
) -> dict[int, Threshold]:
    """A threshold for each class, so that the guarantee of :func:`choose_threshold` holds within every class.

    Args:
        held_out: ID scores (n,).
        classes: *predicted* class of each (n,): a new sample's true class is not known when it is judged.
        tpr: in (0, 1).
        confidence: of the interval of false alarms.

    Returns:
        Class index to threshold, for the classes that occur.
    """
    scores = as_scores(held_out, "held_out")
    groups = as_labels(classes, len(scores), "classes").cpu().numpy()
    return {int(c): choose_threshold(scores[groups == c], tpr, confidence) for c in np.unique(groups)}


def conformal_p_values(
    scores: ArrayLike,
    held_out: ArrayLike,
    *,
    classes: ArrayLike | None = None,
    held_out_classes: ArrayLike | None = None,
) -> Tensor:
    """Conformal p-value of each score: (1 + #{held-out <= score}) / (n + 1); small means out of distribution.

    For a fresh ID sample P(p <= t) <= t for every t, ties included. With classes the comparison is within the class,
    and the guarantee holds class by class; a class without held-out samples gives 1, no evidence at all.

    Args:
        scores: (B,).
        held_out: ID scores (n,) that the detector was not fitted on.
        classes: predicted class of each score (B,).
        held_out_classes: predicted class of each held-out score (n,).

    Returns:
        (B,) float64 in (0, 1], on the CPU.

    Raises:
        EmptySideError: no held-out scores.
        NanScoreError: a score is NaN.
        UserError: only one of the two class vectors was given.
    """
    if (classes is None) != (held_out_classes is None):
        raise UserError("Give both classes and held_out_classes, or neither.")
    queries = as_scores(scores, "scores")
    _refuse_nan(queries, "scores")
    ordered = _sorted_calibration(held_out)
    if classes is None or held_out_classes is None:
        return torch.from_numpy(_p_values(queries, ordered))
    groups = as_labels(classes, len(queries), "classes").cpu().numpy()
    calibration = as_scores(held_out, "held_out")
    calibration_groups = as_labels(held_out_classes, len(calibration), "held_out_classes").cpu().numpy()
    result = np.ones(len(queries))
    for c in np.unique(groups):
        result[groups == c] = _p_values(queries[groups == c], np.sort(calibration[calibration_groups == c]))
    return torch.from_numpy(result)


def benjamini_hochberg(p_values: ArrayLike, level: float = 0.05) -> Tensor:
    """Which samples of a batch to call out-of-distribution with the false discovery rate at most ``level``.

    The step-up rule of Benjamini & Hochberg (1995). On conformal p-values of one held-out set the guarantee stands,
    although they depend on each other (Bates et al., Testing for outliers with conformal p-values, 2023, theorem 2).

    Args:
        p_values: (B,) in [0, 1].
        level: expected share of ID samples among those called OOD, in (0, 1).

    Returns:
        (B,) bool, True = out of distribution.

    Raises:
        UserError: ``level`` or a p-value out of range.
    """
    values = as_scores(p_values, "p_values").astype(np.float64)
    if not 0 < level < 1:
        raise UserError(f"level must be in (0, 1), got {level}.")
    if not ((values >= 0) & (values <= 1)).all():
        raise UserError("p_values must lie in [0, 1].")
    ordered = np.sort(values)
    passing = np.flatnonzero(ordered <= level * np.arange(1, len(values) + 1) / max(len(values), 1))
    cut = ordered[passing[-1]] if len(passing) else -1.0
    return torch.from_numpy(values <= cut)


def _p_values(queries: Array, ordered: Array) -> Array:
    values: Array = (1 + np.searchsorted(ordered, queries, "right")) / (len(ordered) + 1)
    return values


def _allowed_rejections(alpha: float, n: int) -> int:
    # 1 - 0.95 is a hair above 0.05 in floating point; a hair below must not cost a whole sample.
    return int(np.floor(alpha * (n + 1) + 1e-9))


def _sorted_calibration(held_out: ArrayLike) -> Array:
    values = as_scores(held_out, "held_out")
    if not len(values):
        raise EmptySideError(0, 0, "held-out ID")
    _refuse_nan(values, "held_out")
    return np.sort(values)


def _refuse_nan(values: Array, name: str) -> None:
    where = np.flatnonzero(np.isnan(values))
    if len(where):
        raise NanScoreError(name, len(where), int(where[0]), len(values))
