"""Stratified bootstrap intervals of the detection metrics, from counts of resampled ranks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ood_nc.arrays import ArrayLike
from ood_nc.errors import UserError, nearest
from ood_nc.scores.metrics import METRICS, metrics_of_sorted
from ood_nc.scores.ranking import Array, SortedScores, smallest_count, sort_scores

_MOST_GROUPS = 8192
_CELLS = 1 << 19


def bootstrap_intervals(
    id_scores: ArrayLike,
    ood_scores: ArrayLike,
    metrics: Sequence[str] | None = None,
    replicates: int = 500,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap intervals; each side is resampled on its own, so n and m stay fixed.

    The scores are sorted once and a replicate is a vector of counts. Up to 8,192 distinct scores a replicate is
    exact; above that, neighbouring ranks are counted as one group, and a replicate's deviation from the grouped value
    is added to the exact one, which moves an end by far less than the bootstrap's own noise.

    Args:
        id_scores: shape (n,), larger = more in-distribution.
        ood_scores: shape (m,).
        metrics: names out of those of :func:`ood_nc.detection.detection_metrics`; None: all.
        replicates: resamples, at least 1.
        confidence: share of replicates inside the interval, in (0, 1).
        seed: of the resampling; equal seeds give equal intervals.

    Returns:
        Metric name to (low, high).

    Raises:
        EmptySideError: a side holds no scores.
        NanScoreError: a score is NaN.
        UserError: unknown metric, or an argument out of range.
    """
    names = metrics_to_compute(metrics, replicates, confidence)
    scores = sort_scores(id_scores, ood_scores)
    id_counts, ood_counts = _group_counts(scores)
    exact = metrics_of_sorted(scores)
    grouped = metrics_of_counts(id_counts[None], ood_counts[None], names)
    values: dict[str, list[Array]] = {name: [] for name in names}
    rng = np.random.default_rng(seed)
    step = max(1, _CELLS // len(id_counts))
    for start in range(0, replicates, step):
        rows = min(step, replicates - start)
        drawn = metrics_of_counts(_resample(rng, id_counts, rows), _resample(rng, ood_counts, rows), names)
        for name in names:
            values[name].append(drawn[name])
    intervals = {}
    for name in names:
        shifted = np.concatenate(values[name]) + (exact[name] - grouped[name])
        intervals[name] = interval(np.clip(shifted, 0, 1), confidence)
    return intervals


def metrics_to_compute(metrics: Sequence[str] | None, replicates: int, confidence: float) -> tuple[str, ...]:
    """The metric names asked for, all arguments checked.

    Raises:
        UserError: unknown metric, or an argument out of range.
    """
    names = tuple(METRICS if metrics is None else metrics)
    for name in names:
        if name not in METRICS:
            raise UserError(f"Unknown detection metric {name!r}.{nearest(name, METRICS)}")
    if replicates < 1 or not 0 < confidence < 1:
        raise UserError(f"replicates must be at least 1 and confidence in (0, 1), got {replicates} and {confidence}.")
    return names


def interval(values: Array, confidence: float) -> tuple[float, float]:
    """The percentile interval (low, high) of replicates."""
    tail = 50 * (1 - confidence)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def group_values(scores: SortedScores) -> Array:
    """The lowest score of every group of ranks, ascending: all distinct scores, or 8,192 quantiles of more."""
    merged = np.sort(np.concatenate(scores))
    values: Array = merged[np.concatenate([[True], merged[1:] != merged[:-1]])]
    if len(values) > _MOST_GROUPS:
        values = np.unique(merged[np.linspace(0, len(merged) - 1, _MOST_GROUPS).astype(np.int64)])
    return values


def metrics_of_counts(id_counts: Array, ood_counts: Array, names: Sequence[str]) -> dict[str, Array]:
    """Metrics (R,) of each row of counts (R, G), groups in descending order of score."""
    n, m = int(id_counts[0].sum()), int(ood_counts[0].sum())
    id_above = np.cumsum(id_counts, axis=1)
    ood_above = np.cumsum(ood_counts, axis=1)
    id_below = n - id_above + id_counts
    ood_below = m - ood_above + ood_counts
    rows = np.arange(len(id_counts))
    found: dict[str, Array] = {}
    if "auroc" in names:
        found["auroc"] = _row_products(id_counts, ood_below - 0.5 * ood_counts) / (n * m)
    if "aupr_in" in names:
        found["aupr_in"] = _row_products(id_counts, id_above / np.maximum(id_above + ood_above, 1)) / n
    if "aupr_out" in names:
        found["aupr_out"] = _row_products(ood_counts, ood_below / np.maximum(ood_below + id_below, 1)) / m
    if "fpr95_id_positive" in names:
        first = np.argmax(id_above >= smallest_count(0.95, n), axis=1)
        found["fpr95_id_positive"] = ood_above[rows, first] / m
    if "fpr95_ood_positive" in names:
        enough = ood_below >= smallest_count(0.95, m)
        last = enough.shape[1] - 1 - np.argmax(enough[:, ::-1], axis=1)
        found["fpr95_ood_positive"] = id_below[rows, last] / n
    if "fpr95_paper" in names:
        at = np.argmax(id_above >= n - round(0.05 * n), axis=1)
        found["fpr95_paper"] = (ood_above - ood_counts)[rows, at] / m
    if "detection_error" in names:
        errors = (n - id_above) / n + ood_above / m
        found["detection_error"] = 0.5 * np.minimum(errors.min(axis=1), 1.0)
    return found


def _group_counts(scores: SortedScores) -> tuple[Array, Array]:
    values = group_values(scores)
    starts = [np.append(np.searchsorted(side, values, "left"), len(side)) for side in scores]
    id_counts, ood_counts = (np.diff(start)[::-1] for start in starts)
    return id_counts, ood_counts


def _resample(rng: np.random.Generator, counts: Array, replicates: int) -> Array:
    total = int(counts.sum())
    filled = np.flatnonzero(counts)
    if total > 16 * len(filled):
        # Few groups of many: one binomial draw a group is cheaper than one uniform draw a sample.
        drawn = np.zeros((replicates, len(counts)), dtype=np.int64)
        drawn[:, filled] = rng.multinomial(total, counts[filled] / total, size=replicates)
        return drawn
    group_of = np.repeat(np.arange(len(counts)), counts)
    draws = (rng.integers(0, total, total) for _ in range(replicates))
    return np.stack([np.bincount(group_of[draw], minlength=len(counts)) for draw in draws])


def _row_products(counts: Array, weights: Array) -> Array:
    product: Array = np.einsum("rg,rg->r", counts, weights)
    return product
