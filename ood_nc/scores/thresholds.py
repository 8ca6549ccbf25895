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
from ood_nc.errors import UserError
from ood_nc.scores.counts import Array
from ood_nc.scores.errors import EmptySideError, refuse_nan
from ood_nc.scores.ranking import as_scores, in_one_type


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

    Example:
        >>> from ood_nc.scores import choose_threshold
        >>> threshold = choose_threshold([0.1 * k for k in range(1, 100)], tpr=0.9)
        >>> threshold.accept([0.5, 1.5]).tolist()
        [False, True]
    """

    value: float
    tpr: float
    samples: int
    false_alarms_per_10000: float
    low: float
    high: float

    def accept(self, scores: ArrayLike) -> Tensor:
        """Which samples are accepted as in-distribution, (B,) bool."""
        # torch would compare integers, and a float32 score, with the threshold rounded to float32.
        return as_tensor(scores, "scores").double() >= self.value


def choose_threshold(held_out: ArrayLike, tpr: float = 0.95, confidence: float = 0.95) -> Threshold:
    """The highest threshold that accepts a fresh ID sample with probability at least ``tpr``.

    It is the j-th smallest held-out score, j = floor((1 - tpr)(n + 1)). The false alarm rate it will have is
    Beta(j, n + 1 - j) distributed over held-out sets (exactly so for scores without ties), which gives the interval.

    Args:
        held_out: ID scores (n,), larger = more in-distribution.
        tpr: in (0, 1).
        confidence: of the interval of false alarms, in (0, 1).

    Raises:
        EmptySideError, NanScoreError: no scores, or NaN.
        UserError: ``tpr`` or ``confidence`` out of range.

    Example:
        >>> from ood_nc.scores import choose_threshold
        >>> threshold = choose_threshold(range(1, 100), tpr=0.9)
        >>> threshold.value, threshold.false_alarms_per_10000
        (10.0, 1000.0)
    """
    if not (0 < tpr < 1 and 0 < confidence < 1):
        raise UserError(f"tpr and confidence must be in (0, 1), got {tpr} and {confidence}.")
    # A threshold is a float.
    ordered = in_one_type(held_out=_sorted_calibration(held_out), threshold=np.empty(0))[0]
    n = len(ordered)
    rejected = allowed_rejections(1 - tpr, n)
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

    Example:
        >>> from ood_nc.scores import choose_class_thresholds
        >>> found = choose_class_thresholds([1.0, 2.0, 3.0, 10.0, 20.0, 30.0], [0, 0, 0, 1, 1, 1], tpr=0.75)
        >>> found[0].value, found[1].value
        (1.0, 10.0)
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
        EmptySideError, NanScoreError: no held-out scores, or NaN.
        UserError: only one of the two class vectors was given.

    Example:
        >>> from ood_nc.scores import conformal_p_values
        >>> conformal_p_values([0.0, 2.5, 9.0], [1.0, 2.0, 3.0]).tolist()
        [0.25, 0.75, 1.0]
    """
    if (classes is None) != (held_out_classes is None):
        raise UserError("Give both classes and held_out_classes, or neither.")
    queries, ordered = _prepared(scores, held_out)
    if classes is None or held_out_classes is None:
        return torch.from_numpy(_p_values(queries, ordered))
    groups = as_labels(classes, len(queries), "classes").cpu().numpy()
    calibration = as_scores(held_out, "held_out").astype(ordered.dtype)
    calibration_groups = as_labels(held_out_classes, len(calibration), "held_out_classes").cpu().numpy()
    result = np.ones(len(queries))
    for c in np.unique(groups):
        result[groups == c] = _p_values(queries[groups == c], np.sort(calibration[calibration_groups == c]))
    return torch.from_numpy(result)


def conformal_levels(scores: ArrayLike, held_out: ArrayLike) -> tuple[Array, int]:
    """1 + #{held-out <= score} of each score, and the number of held-out scores."""
    queries, ordered = _prepared(scores, held_out)
    return 1 + np.searchsorted(ordered, queries, "right"), len(ordered)


def _prepared(scores: ArrayLike, held_out: ArrayLike) -> tuple[Array, Array]:
    """Scores, and held-out scores in ascending order, in one dtype."""
    queries = as_scores(scores, "scores")
    refuse_nan(queries, "scores")
    queries, ordered = in_one_type(scores=queries, held_out=_sorted_calibration(held_out))
    return queries, ordered


def _p_values(queries: Array, ordered: Array) -> Array:
    return (1 + np.searchsorted(ordered, queries, "right")) / (len(ordered) + 1)


def allowed_rejections(alpha: float, n: int) -> int:
    """floor(alpha (n + 1)): of n held-out scores, how many a share alpha of false alarms lets below the threshold."""
    # 1 - 0.95 is a hair above 0.05 in floating point; a hair below must not cost a whole sample.
    return int(np.floor(alpha * (n + 1) + 1e-9))


def _sorted_calibration(held_out: ArrayLike) -> Array:
    values = as_scores(held_out, "held_out")
    if not len(values):
        raise EmptySideError(0, 0, "held-out ID")
    refuse_nan(values, "held_out")
    return np.sort(values)
