"""Sorted scores of both sides and the counts every ranking metric is made of.

Each side is sorted once; the two are then merged block by block, so that all counts of a block stay in the cache.
Blocks end where the value changes, so no group of tied scores is ever split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch

from ood_nc.arrays import EXACT_IN_FLOAT64, ArrayLike, as_signed, as_tensor
from ood_nc.errors import UserError
from ood_nc.scores.errors import EmptySideError, NanScoreError

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
S = TypeVar("S")
T = TypeVar("T")
_BLOCK = 1 << 15
_WORTH_THREADS = 1 << 20


class SortedScores(NamedTuple):
    """Both sides in ascending order, in one dtype."""

    id: Array
    ood: Array


class Block(NamedTuple):
    """Counts for a stretch of ID scores and the OOD scores between them.

    Attributes:
        start: rank of the first ID score of the block.
        id_at_or_above: per ID score s, the number of ID scores >= s.
        ood_below: per ID score s, the number of OOD scores < s.
        tied_pairs: the number of (ID, OOD) pairs of equal scores.
        ood_at_or_below: per OOD score s, the number of OOD scores <= s.
        id_at_or_below: per OOD score s, the number of ID scores <= s.
    """

    start: int
    id_at_or_above: Array
    ood_below: Array
    tied_pairs: int
    ood_at_or_below: Array
    id_at_or_below: Array


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
        EmptySideError: a side holds no scores.
        NanScoreError: a score is NaN.
        UserError: not vectors of numbers, or integers above 2^53 on one side and floats on the other.
    """
    sides = as_scores(id_scores, "id_scores"), as_scores(ood_scores, "ood_scores")
    if not all(side.size for side in sides):
        raise EmptySideError(sides[0].size, sides[1].size)
    ordered = _map(np.sort, in_one_type(id_scores=sides[0], ood_scores=sides[1]), sides[0].size + sides[1].size)
    for name, side, values in zip(("id_scores", "ood_scores"), sides, ordered, strict=True):
        # NaN sorts last, so one look at the end tells.
        if values.dtype.kind == "f" and np.isnan(values[-1]):
            where = np.flatnonzero(np.isnan(side))
            raise NanScoreError(name, len(where), int(where[0]), side.size)
    return SortedScores(*ordered)


def over_blocks(scores: SortedScores, summarize: Callable[[Block], T]) -> list[T]:
    """Merge the two sides and return ``summarize(block)`` of each block, in order.

    The blocks cover every ID and every OOD score exactly once.
    """
    id_sorted, ood_sorted = scores
    starts = np.unique(np.searchsorted(id_sorted, id_sorted[::_BLOCK], "left"))
    lows = np.searchsorted(ood_sorted, id_sorted[starts], "left")
    # OOD scores below every ID score go with the first block.
    lows[0] = 0
    id_bounds = [*starts.tolist(), len(id_sorted)]
    ood_bounds = [*lows.tolist(), len(ood_sorted)]

    def one(k: int) -> T:
        id_part = id_sorted[id_bounds[k] : id_bounds[k + 1]]
        ood_part = ood_sorted[ood_bounds[k] : ood_bounds[k + 1]]
        return summarize(_merge(id_part, ood_part, id_bounds[k], ood_bounds[k], len(id_sorted)))

    return _map(one, range(len(starts)), len(id_sorted) + len(ood_sorted))


def _map(function: Callable[[S], T], items: Iterable[S], size: int) -> list[T]:
    # NumPy sorts on one core and lets go of the interpreter while it does; torch's setting says how many we may use.
    workers = torch.get_num_threads()
    if workers == 1 or size < _WORTH_THREADS:
        return [function(item) for item in items]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, items))


def _merge(id_part: Array, ood_part: Array, start: int, low: int, id_total: int) -> Block:
    # A stable sort of two sorted runs is one merge; of equal values the ID ones come first.
    from_id = np.argsort(np.concatenate([id_part, ood_part]), kind="stable") < len(id_part)
    ood_below = np.flatnonzero(from_id)
    ood_below -= np.arange(len(id_part))
    id_at_or_below = np.flatnonzero(~from_id)
    id_at_or_below -= np.arange(len(ood_part))
    last = _group_last(ood_part)
    return Block(
        start=start,
        id_at_or_above=id_total - start - _group_first(id_part),
        ood_below=ood_below + low,
        tied_pairs=_tied_pairs(id_part, ood_part, ood_below, last),
        ood_at_or_below=last + (low + 1),
        id_at_or_below=id_at_or_below + start,
    )


def _tied_pairs(id_part: Array, ood_part: Array, ood_below: Array, last: Array) -> int:
    inside = ood_below[: np.searchsorted(ood_below, len(ood_part))]
    at = inside[ood_part[inside] == id_part[: len(inside)]]
    return int((last[at] - at).sum()) + len(at)


def _group_first(ordered: Array) -> Array:
    """For each entry of an ordered vector, the index at which its group of equal values begins."""
    index = np.arange(len(ordered))
    same = ordered[1:] == ordered[:-1]
    if same.any():
        index[1:][same] = 0
        np.maximum.accumulate(index, out=index)
    return index


def _group_last(ordered: Array) -> Array:
    """For each entry of an ordered vector, the index at which its group of equal values ends."""
    index = np.arange(len(ordered))
    same = ordered[1:] == ordered[:-1]
    if same.any():
        index[:-1][same] = len(ordered)
        index = np.minimum.accumulate(index[::-1])[::-1]
    return index


def smallest_count(share: float, total: int) -> int:
    """The smallest count c with c / total >= share in float64, as a threshold sweep over shares would find it."""
    count = min(max(int(np.ceil(share * total)), 1), total)
    while count > 1 and (count - 1) / total >= share:
        count -= 1
    while count < total and count / total < share:
        count += 1
    return count
