"""Scores sorted, and metrics of them: from scores to counts to values.

Each side is sorted once; the two are then merged block by block, so that all counts of a block stay in the cache.
Blocks end where the value changes, so no group of tied scores is ever split.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from ood_nc.arrays import EXACT_IN_FLOAT64, ArrayLike, as_signed, as_tensor
from ood_nc.errors import UserError
from ood_nc.scores.counts import Array, SampleCounts
from ood_nc.scores.errors import EmptySideError, refuse_nan
from ood_nc.scores.registry import METRICS, ScoreMetric

S = TypeVar("S")
T = TypeVar("T")
_BLOCK = 1 << 17
_WORTH_THREADS = 1 << 20


class SortedScores(NamedTuple):
    """Both sides in ascending order, in one dtype."""

    id: Array
    ood: Array


def as_scores(values: ArrayLike, name: str) -> Array:
    """Return ``values`` as a NumPy vector that must only be read; no value changes.

    Floats of less than 32 bits become float32, unsigned integers of more than 8 bits int64.

    Raises:
        UserError: not one-dimensional, or an integer above 2^63 - 1.
    """
    tensor = as_signed(as_tensor(values, name), name)
    if tensor.ndim != 1:
        raise UserError(f"{name} must have shape (N,), got {tuple(tensor.shape)}.")
    if tensor.is_floating_point() and tensor.dtype != torch.float64:
        tensor = tensor.float()
    array: Array = tensor.cpu().numpy()
    return array.astype(np.int8) if array.dtype == np.bool_ else array


def in_one_type(**sides: Array) -> list[Array]:
    """The vectors in the one dtype that holds them all.

    Raises:
        UserError: integers beside floats that would round them, and so make ties of different scores.
    """
    dtype = np.result_type(*sides.values())
    for name, side in sides.items():
        rounds = dtype.kind == "f" and side.dtype == np.int64 and side.size > 0
        if rounds and max(-int(side.min()), int(side.max())) > EXACT_IN_FLOAT64:
            raise UserError(f"{name} holds integers above 2^53, which floats beside them round: use one type for all.")
    return [side.astype(dtype, copy=False) for side in sides.values()]


def sort_scores(id_scores: ArrayLike, ood_scores: ArrayLike) -> SortedScores:
    """Return both sides sorted.

    Raises:
        EmptySideError, NanScoreError: a side holds no scores, or NaN.
        UserError: not vectors of numbers, or integers above 2^53 on one side and floats on the other.
    """
    sides = as_scores(id_scores, "id_scores"), as_scores(ood_scores, "ood_scores")
    if not all(side.size for side in sides):
        raise EmptySideError(sides[0].size, sides[1].size)
    ordered = _map(np.sort, in_one_type(id_scores=sides[0], ood_scores=sides[1]), sides[0].size + sides[1].size)
    for name, side, values in zip(("id_scores", "ood_scores"), sides, ordered, strict=True):
        # NaN sorts last, so one look at the end tells.
        if values.dtype.kind == "f" and np.isnan(values[-1]):
            refuse_nan(side, name)
    return SortedScores(*ordered)


def measure(id_scores: ArrayLike, ood_scores: ArrayLike, metric: ScoreMetric) -> float:
    """The value of one metric; raises what `sort_scores` raises."""
    return measure_sorted(sort_scores(id_scores, ood_scores), [metric])[0]


def detection_metrics(id_scores: ArrayLike, ood_scores: ArrayLike) -> dict[str, float]:
    """All metrics of `METRICS` from one sort of each side and one merge.

    Returns:
        ``auroc``, ``fpr95_id_positive``, ``fpr95_ood_positive``, ``fpr95_paper``, ``aupr_in``, ``aupr_out`` (both
        step-wise), ``detection_error`` and those of plug-ins, in [0, 1].

    Raises:
        EmptySideError, NanScoreError: a side holds no scores, or NaN.

    Example:
        >>> from ood_nc.scores import detection_metrics
        >>> found = detection_metrics([0.35, 0.8], [0.1, 0.4])
        >>> found["auroc"], found["fpr95_id_positive"]
        (0.75, 0.5)
    """
    values = measure_sorted(sort_scores(id_scores, ood_scores), list(METRICS.values()))
    return dict(zip(METRICS, values, strict=True))


def measure_sorted(scores: SortedScores, metrics: Sequence[ScoreMetric]) -> list[float]:
    """The values of metrics: the case of one resample, in which every sample counts once."""
    n, m = len(scores.id), len(scores.ood)
    id_cuts = np.unique(np.searchsorted(scores.id, scores.id[::_BLOCK], "left"))
    ood_cuts = np.searchsorted(scores.ood, scores.id[id_cuts], "left")
    # OOD scores below every ID score go with the first block.
    ood_cuts[0] = 0

    def parts(low_id: int, high_id: int, low_ood: int, high_ood: int) -> list[Array]:
        counts = SampleCounts(n, m, scores.id[low_id:high_id], scores.ood[low_ood:high_ood], (low_id, low_ood))
        return [metric(counts) for metric in metrics]

    bounds = zip(id_cuts, [*id_cuts[1:], n], ood_cuts, [*ood_cuts[1:], m], strict=True)
    by_block = _map(lambda bound: parts(*bound), bounds, n + m)
    return [metric.reduce(blocks).item() for metric, blocks in zip(metrics, zip(*by_block, strict=True), strict=True)]


def group_edges(id_sorted: Array, ood_sorted: Array) -> tuple[Array, Array]:
    """Where groups of tied scores begin, ascending, and the end: as ranks of either side, both (G + 1,)."""
    merged = np.concatenate([id_sorted, ood_sorted])
    # A stable sort of two sorted runs is one merge.
    order = np.argsort(merged, kind="stable")
    ordered = merged[order]
    starts = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    at = np.concatenate([[0], starts, [len(merged)]])
    id_edges = np.zeros(len(merged) + 1, dtype=np.int64)
    np.cumsum(order < len(id_sorted), out=id_edges[1:])
    if len(at) < len(id_edges):
        id_edges = id_edges[at]
    return id_edges, at - id_edges


def _map(function: Callable[[S], T], items: Iterable[S], size: int) -> list[T]:
    # NumPy sorts on one core and lets go of the interpreter while it does; torch's setting says how many we may use.
    workers = torch.get_num_threads()
    if workers == 1 or size < _WORTH_THREADS:
        return [function(item) for item in items]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, items))


@functools.lru_cache(maxsize=1024)
def smallest_count(share: float, total: int) -> int:
    """The smallest count c with c / total >= share in float64, as a threshold sweep over shares would find it."""
    count = min(max(int(np.ceil(share * total)), 1), total)
    while count > 1 and (count - 1) / total >= share:
        count -= 1
    while count < total and count / total < share:
        count += 1
    return count
