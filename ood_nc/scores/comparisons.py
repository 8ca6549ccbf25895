"""Paired comparisons of two detectors, or of two runs, on the same samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from ood_nc.arrays import ArrayLike
from ood_nc.errors import UserError
from ood_nc.scores.bootstrap import check_replicates, percentile_interval, resampled_metrics
from ood_nc.scores.counts import Array
from ood_nc.scores.ranking import as_scores, sort_scores
from ood_nc.scores.resamples import draw_samples, ranks_of_samples

_Pair = tuple[ArrayLike, ArrayLike]


@dataclass(frozen=True)
class PairedDifference:
    """A metric of the first minus that of the second, on the same samples.

    Attributes:
        difference: first minus second.
        low: lower end of the confidence interval.
        high: upper end.
        p_value: two-sided, of the hypothesis that there is no difference; None for a bootstrap.

    Example:
        >>> from ood_nc.scores import PairedDifference
        >>> change = PairedDifference(difference=0.03, low=0.01, high=0.05)
        >>> change.low > 0  # the first is better
        True
    """

    difference: float
    low: float
    high: float
    p_value: float | None = None


def delong_test(first: _Pair, second: _Pair, confidence: float = 0.95) -> PairedDifference:
    """DeLong's test of equal AUROC of two scores of the same samples (DeLong et al., Biometrics 1988).

    In O((n + m) log(n + m)) from placement values, ties counted half.

    Args:
        first: (id_scores, ood_scores) of the first detector or run.
        second: those of the second, sample by sample in the same order.
        confidence: of the interval.

    Returns:
        The difference of the AUROCs. Without any variance the p-value is 1 for no difference, else 0.

    Raises:
        EmptySideError, NanScoreError: a side holds no scores, or NaN.
        UserError: the two do not have the same samples, or a side holds a single score.

    Example:
        >>> from ood_nc.scores import delong_test
        >>> first = [2.0, 3.0, 5.0, 6.0], [0.0, 1.0, 2.5, 4.0]
        >>> second = [2.0, 3.0, 5.0, 1.5], [0.0, 1.0, 2.5, 4.0]
        >>> found = delong_test(first, second)
        >>> round(found.difference, 4), round(found.p_value, 3)
        (0.125, 0.386)
    """
    _check_paired(first, second)
    parts = [_placements(*pair) for pair in (first, second)]
    id_change, ood_change = (a - b for a, b in zip(*parts, strict=True))
    difference = float(id_change.mean())
    error = float(np.sqrt(sum(change.var(ddof=1) / len(change) for change in (id_change, ood_change))))
    reach = float(ndtri(0.5 + confidence / 2)) * error
    if error > 0:
        p_value = float(2 * ndtr(-abs(difference) / error))
    else:
        p_value = float(difference == 0)
    return PairedDifference(difference, difference - reach, difference + reach, p_value)


def paired_bootstrap(
    first: _Pair,
    second: _Pair,
    metrics: Sequence[str] | None = None,
    replicates: int = 500,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, PairedDifference]:
    """Bootstrap intervals of the difference of each metric; a replicate draws the same samples for both.

    Args:
        first: (id_scores, ood_scores) of the first detector or run.
        second: those of the second, sample by sample in the same order.
        metrics: names out of `METRICS`; None: all.
        replicates: resamples.
        confidence: of the percentile intervals.
        seed: of the resampling.

    Raises:
        EmptySideError, NanScoreError: a side holds no scores, or NaN.
        UserError: the two do not have the same samples, or an argument is out of range.

    Example:
        >>> from ood_nc.scores import paired_bootstrap
        >>> first = [2.0, 3.0, 5.0, 6.0], [0.0, 1.0, 2.5, 4.0]
        >>> change = paired_bootstrap(first, first, ["auroc"])["auroc"]
        >>> change.difference, change.low, change.high
        (0.0, 0.0, 0.0)
    """
    check_replicates(replicates)
    _check_paired(first, second)
    counts = [draw_samples(len(side), replicates, [seed, k]) for k, side in enumerate(first)]
    a, b = (
        resampled_metrics(ids, oods, ranks_of_samples(counts[0], ids), ranks_of_samples(counts[1], oods), metrics)
        for ids, oods in (first, second)
    )
    result = {}
    for name in a:
        change = a[name] - b[name]
        low, high = percentile_interval(change[1:], confidence)
        result[name] = PairedDifference(float(change[0]), low, high)  # type: ignore[arg-type]
    return result


def _placements(id_scores: ArrayLike, ood_scores: ArrayLike) -> tuple[Array, Array]:
    """Per ID score the share of OOD scores below it, per OOD score the share of ID scores above it (ties half)."""
    ordered = sort_scores(id_scores, ood_scores)
    if min(len(side) for side in ordered) < 2:
        raise UserError("DeLong's variance takes at least 2 ID and 2 OOD scores.")
    id_values, ood_values = as_scores(id_scores, "id_scores"), as_scores(ood_scores, "ood_scores")
    return _share_below(id_values, ordered.ood), 1 - _share_below(ood_values, ordered.id)


def _share_below(values: Array, ordered: Array) -> Array:
    below = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return below / (2 * len(ordered))


def _check_paired(first: _Pair, second: _Pair) -> None:
    sizes = [tuple(len(as_scores(side, "scores")) for side in pair) for pair in (first, second)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"A paired comparison needs the same samples: {sizes[0][0]} ID + {sizes[0][1]} OOD scores "
            f"against {sizes[1][0]} + {sizes[1][1]}."
        )
