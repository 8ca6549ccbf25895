"""Paired comparisons of two detectors, or of two runs, on the same samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from ood_nc.arrays import ArrayLike
from ood_nc.errors import UserError
from ood_nc.scores.bootstrap import group_values, interval, metrics_of_counts, metrics_to_compute
from ood_nc.scores.metrics import metrics_of_sorted
from ood_nc.scores.ranking import Array, SortedScores, as_scores, sort_scores

_Pair = tuple[ArrayLike, ArrayLike]


@dataclass(frozen=True)
class PairedDifference:
    """A metric of the first minus that of the second, on the same samples.

    Attributes:
        difference: first minus second.
        low: lower end of the confidence interval.
        high: upper end.
        p_value: two-sided, of the hypothesis that there is no difference; None for a bootstrap.
    """

    difference: float
    low: float
    high: float
    p_value: float | None = None


def delong_interval(id_scores: ArrayLike, ood_scores: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval (low, high) of the AUROC from DeLong's variance, clipped to [0, 1]; at least 2 + 2 scores.

    Raises:
        EmptySideError: a side holds no scores.
        NanScoreError: a score is NaN.
        UserError: a side holds a single score.
    """
    id_parts, ood_parts = _placements(id_scores, ood_scores)
    area = float(id_parts.mean())
    reach = float(ndtri(0.5 + confidence / 2)) * _standard_error(id_parts, ood_parts)
    return max(0.0, area - reach), min(1.0, area + reach)


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
        EmptySideError: a side holds no scores.
        NanScoreError: a score is NaN.
        UserError: the two do not have the same samples, or a side holds a single score.
    """
    _check_paired(first, second)
    parts = [_placements(*pair) for pair in (first, second)]
    id_change, ood_change = (a - b for a, b in zip(*parts, strict=True))
    difference = float(id_change.mean())
    error = _standard_error(id_change, ood_change)
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
        metrics: names of :func:`ood_nc.detection.detection_metrics`; None: all.
        replicates: resamples.
        confidence: of the percentile intervals.
        seed: of the resampling.

    Raises:
        EmptySideError: a side holds no scores.
        NanScoreError: a score is NaN.
        UserError: the two do not have the same samples, or an argument is out of range.
    """
    names = metrics_to_compute(metrics, replicates, confidence)
    _check_paired(first, second)
    ordered = [sort_scores(*pair) for pair in (first, second)]
    grouped = [_sample_groups(pair, scores) for pair, scores in zip((first, second), ordered, strict=True)]
    exact = [metrics_of_sorted(scores) for scores in ordered]
    base = [_counted(g, [np.arange(len(g[0]))], [np.arange(len(g[1]))], names) for g in grouped]
    rng = np.random.default_rng(seed)
    changes: dict[str, list[Array]] = {name: [] for name in names}
    n, m = (len(side) for side in ordered[0])
    for _ in range(replicates):
        drawn = [rng.integers(0, n, n)], [rng.integers(0, m, m)]
        a, b = (_counted(g, *drawn, names) for g in grouped)
        for name in names:
            changes[name].append((a[name] - base[0][name]) - (b[name] - base[1][name]))
    result = {}
    for name in names:
        difference = exact[0][name] - exact[1][name]
        low, high = interval(np.concatenate(changes[name]) + difference, confidence)
        result[name] = PairedDifference(difference, low, high)
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
    share: Array = below / (2 * len(ordered))
    return share


def _standard_error(id_parts: Array, ood_parts: Array) -> float:
    return float(np.sqrt(id_parts.var(ddof=1) / len(id_parts) + ood_parts.var(ddof=1) / len(ood_parts)))


def _check_paired(first: _Pair, second: _Pair) -> None:
    sizes = [tuple(len(as_scores(side, "scores")) for side in pair) for pair in (first, second)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"A paired comparison needs the same samples: {sizes[0][0]} ID + {sizes[0][1]} OOD scores "
            f"against {sizes[1][0]} + {sizes[1][1]}."
        )


def _sample_groups(pair: _Pair, ordered: SortedScores) -> tuple[Array, Array, int]:
    """The rank group of every sample, in descending order of score, and the number of groups."""
    values = group_values(ordered)
    groups = [len(values) - np.searchsorted(values, as_scores(side, "scores"), "right") for side in pair]
    return groups[0], groups[1], len(values)


def _counted(
    grouped: tuple[Array, Array, int], id_drawn: Sequence[Array], ood_drawn: Sequence[Array], names: Sequence[str]
) -> dict[str, Array]:
    id_groups, ood_groups, count = grouped
    id_counts = np.stack([np.bincount(id_groups[drawn], minlength=count) for drawn in id_drawn])
    ood_counts = np.stack([np.bincount(ood_groups[drawn], minlength=count) for drawn in ood_drawn])
    return metrics_of_counts(id_counts, ood_counts, names)
