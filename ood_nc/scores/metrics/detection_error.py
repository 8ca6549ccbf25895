"""The detection error of ODIN."""

from __future__ import annotations

import numpy as np

from ood_nc.arrays import ArrayLike
from ood_nc.scores.counts import Array, RankCounts
from ood_nc.scores.ranking import measure
from ood_nc.scores.registry import score_metric


@score_metric("detection_error", "least mean of the two error rates over all thresholds", "min")
def least_error(counts: RankCounts) -> Array:
    """Accepted at a threshold: all in its group or above; below the lowest score the error is one half."""
    # No threshold between two ID samples is better than the upper of them.
    at = counts.at_id
    errors = at.id_below * counts.m
    errors += at.ood_above * counts.n
    least: Array = errors.min(axis=-1).astype(np.float64) / (2 * counts.n * counts.m)
    return least


def detection_error(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Smallest mean of the two error rates over all thresholds: min_t 0.5 P(id < t) + 0.5 P(ood >= t).

    Both sides weigh the same whatever their sizes (Liang et al., ODIN, ICLR 2018).

    Raises:
        EmptySideError, NanScoreError: a side holds no scores, or NaN.

    Example:
        >>> from ood_nc.scores import detection_error
        >>> detection_error([0.35, 0.8], [0.1, 0.4])
        0.25
    """
    return measure(id_scores, ood_scores, least_error)
