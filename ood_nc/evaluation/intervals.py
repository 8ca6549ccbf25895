"""Bootstrap replicates of all detection metrics of many detectors on the same two sets, from one drawing of ranks.

A resample of n scores is a vector of counts over the n ranks, whose distribution does not depend on the scores. So the
counts are drawn and summed up once for a set, and every detector at every tap only looks up where its ID and OOD
ranks fall among each other.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ood_nc.scores.ranking import smallest_count

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

_MOST_GROUPS = 512


class Side(NamedTuple):
    """Resampled ranks of one set of n samples.

    Up to 512 samples every rank is a group of its own and the replicates are exact. Beyond, neighbouring ranks share a
    group and counts in between are interpolated.

    Attributes:
        n: number of samples.
        edges: first rank of each group, and n (G + 1,).
        drawn: samples drawn from each group (G, R).
        before: samples drawn below each edge (G + 1, R).
    """

    n: int
    edges: Indices
    drawn: Array
    before: Array


class Merged(NamedTuple):
    """Where the sorted ID and OOD scores of one detector fall among each other.

    Attributes:
        id_first: by ID rank, the first rank with the same score (n,).
        ood_below: by ID rank, the number of OOD scores below (n,).
        ood_not_above: by ID rank, the number of OOD scores at or below (n,).
        ood_last: by OOD rank, the number of OOD scores at or below (m,).
        id_below: by OOD rank, the number of ID scores below (m,).
        id_not_above: by OOD rank, the number of ID scores at or below (m,).
    """

    id_first: Indices
    ood_below: Indices
    ood_not_above: Indices
    ood_last: Indices
    id_below: Indices
    id_not_above: Indices


def draw_ranks(n: int, replicates: int, seed: int | list[int]) -> Side:
    """Draw ``replicates`` resamples of ``n`` samples."""
    groups = min(n, _MOST_GROUPS)
    edges = np.arange(groups + 1) * n // groups
    group_of = np.repeat(np.arange(groups), np.diff(edges))
    generator = np.random.default_rng(seed)
    rows = [np.bincount(group_of[generator.integers(0, n, n)], minlength=groups) for _ in range(replicates)]
    drawn = np.array(rows, dtype=np.float64).reshape(replicates, groups).T
    before = np.vstack([np.zeros((1, replicates)), np.cumsum(drawn, axis=0)])
    return Side(n, edges, np.ascontiguousarray(drawn), before)


def merge(id_scores: Array, ood_scores: Array) -> Merged:
    """Sort both sides, once for all replicates."""
    ids, oods = np.sort(id_scores), np.sort(ood_scores)
    return Merged(
        id_first=np.searchsorted(ids, ids, "left"),
        ood_below=np.searchsorted(oods, ids, "left"),
        ood_not_above=np.searchsorted(oods, ids, "right"),
        ood_last=np.searchsorted(oods, oods, "right"),
        id_below=np.searchsorted(ids, oods, "left"),
        id_not_above=np.searchsorted(ids, oods, "right"),
    )


def replicate(merged: Merged, ids: Side, oods: Side) -> dict[str, Array]:
    """Every metric of `ood_nc.detection.detection_metrics` in each replicate, (R,).

    Args:
        merged: the scores.
        ids: resampled ranks of the ID set, the same for all OOD sets and detectors.
        oods: resampled ranks of the OOD set.
    """
    n, m = ids.n, oods.n
    # In a group of ranks the mean position stands for all of them.
    id_above = n - _before(ids, _by_group(ids, merged.id_first))
    ood_above = m - _before(oods, _by_group(ids, merged.ood_below))
    id_rejected = _before(ids, _by_group(oods, merged.id_not_above))
    ood_rejected = _before(oods, _by_group(oods, merged.ood_last))
    tied = bool((merged.id_below != merged.id_not_above).any())
    id_lower = _before(ids, _by_group(oods, merged.id_below)) if tied else id_rejected
    precision_in = id_above / np.maximum(id_above + ood_above, 1)
    precision_out = ood_rejected / np.maximum(ood_rejected + id_rejected, 1)
    errors = (n - id_above) / n + ood_above / m
    return {
        "auroc": 1 - _dot(oods.drawn, id_lower + id_rejected) / (2 * n * m),
        "aupr_in": _dot(ids.drawn, precision_in) / n,
        "aupr_out": _dot(oods.drawn, precision_out) / m,
        "detection_error": 0.5 * np.minimum(errors.min(axis=0), 1.0),
        **_at_thresholds(merged, ids, oods),
    }


def _at_thresholds(merged: Merged, ids: Side, oods: Side) -> dict[str, Array]:
    n, m = ids.n, oods.n
    kept = _rank_of(ids, n - smallest_count(0.95, n) + 1)
    paper = _rank_of(ids, round(0.05 * n) + 1)
    rejected = _rank_of(oods, smallest_count(0.95, m))
    return {
        "fpr95_id_positive": 1 - _before_each(oods, merged.ood_below[kept]) / m,
        "fpr95_ood_positive": _before_each(ids, merged.id_not_above[rejected]) / n,
        "fpr95_paper": 1 - _before_each(oods, merged.ood_not_above[paper]) / m,
    }


def _by_group(side: Side, positions: Indices) -> Array:
    """The mean position over the ranks of each group (G,)."""
    if len(side.drawn) == side.n:
        return positions.astype(np.float64)
    sums = np.add.reduceat(positions, side.edges[:-1])
    means: Array = sums / np.diff(side.edges)
    return means


def _before(side: Side, positions: Array) -> Array:
    """Samples drawn below each position in each replicate (P, R), linear between edges."""
    at = positions * (len(side.drawn) / side.n)
    low = at.astype(np.int64)
    share = at - low
    if not share.any():
        return side.before[low]
    high = np.minimum(low + 1, len(side.drawn))
    found: Array = side.before[low]
    found += share[:, None] * (side.before[high] - found)
    return found


def _before_each(side: Side, positions: Indices) -> Array:
    """Samples drawn below one position for each replicate, (R,)."""
    at = positions * (len(side.drawn) / side.n)
    low = at.astype(np.int64)
    high = np.minimum(low + 1, len(side.drawn))
    replicates = np.arange(len(positions))
    lower = side.before[low, replicates]
    found: Array = lower + (at - low) * (side.before[high, replicates] - lower)
    return found


def _rank_of(side: Side, count: int) -> Indices:
    """The rank whose sample is the ``count``-th lowest drawn, in each replicate (R,)."""
    group = (side.before < count).sum(axis=0) - 1
    replicates = np.arange(side.before.shape[1])
    inside = (count - 0.5 - side.before[group, replicates]) / side.drawn[group, replicates]
    width = np.diff(side.edges)[group]
    return side.edges[group] + np.minimum((inside * width).astype(np.int64), width - 1)


def _dot(a: Array, b: Array) -> Array:
    product: Array = np.einsum("gr,gr->r", a, b)
    return product
