"""Nearest neighbours whose distances hold against float64, at the speed of a float32 index.

faiss computes |x|^2 + |y|^2 - 2 x.y in float32. Where neighbours are much closer to each other than to the origin of
the index (collapsed features, a common offset) the digits cancel and the result is noise. So:

1. rows are normalised and centred on the bank's mean in float64 before they become float32;
2. faiss proposes k + margin candidates per query, from an index or, of a bank too large to be held once more in
   float32, from one block of rows after the other;
3. where the error bound of the float32 distances is too large against the k-th of them, candidates are ranked again in
   float64; the result stands if no row outside the candidates can be closer than the k-th, by the same bound;
4. the queries left over look into the nearest class alone, centred on its own mean, with products in float64; that
   stands if no other class reaches that close;
5. what is still left gets the same treatment over the whole bank, and what even float64 products cannot tell apart is
   searched difference by difference.

The distance returned is always the norm of a difference in float64 of the rows themselves. That holds for approximate
indexes too: they only propose other candidates, and without a proof that there are no closer ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ood_nc.caching import cached_property
from ood_nc.detection.kit import faiss_backend, linalg

_BATCH = 4096
MARGIN = 32
TRUSTED = 1e-5
"""Relative error of a squared float32 distance that changes no score by more than half of it."""
_CACHED = 1 << 19
HELD = 1 << 28
"""Numbers that are held in an index (1 GiB); rows of a larger bank become float32 whenever they are read."""
_SCANNED = 1 << 13


def kth_distance(banks: Sequence[ExactNeighbors], queries: Tensor, k: int) -> Tensor:
    """Euclidean distance of each query (B, d) to its k-th nearest row of the bank where that is smallest, (B,) float64.

    All banks must treat norms alike.
    """
    distances = torch.empty(len(queries), dtype=torch.float64)
    for start in range(0, len(queries), _BATCH):
        part = slice(start, start + _BATCH)
        unit = banks[0].unit(queries[part])
        distances[part] = banks[0].kth_of_unit(unit, k)
        for bank in banks[1:]:
            distances[part] = torch.minimum(distances[part], bank.kth_of_unit(unit, k))
    return distances


class _Class(NamedTuple):
    """Row ids of one class, their mean, and the largest distance of a row from it."""

    ids: Tensor
    center: Tensor
    radius: float


class ExactNeighbors:
    """A bank to search.

    Args:
        bank: (n, d) of any floating dtype on the CPU; kept by reference.
        normalize: compare L2-normalised rows.
        labels: class of each row (n,), or None; it makes collapsed banks faster and changes no result.
        k: what will be asked for; with it, the index moves to a GPU where faiss has one.

    Raises:
        MissingPackageError: faiss is not installed.

    Example:
        >>> bank = ExactNeighbors(torch.tensor([[0.0, 0.0], [3.0, 4.0]]), normalize=False)
        >>> bank.kth_distance(torch.tensor([[0.0, 0.0]]), k=2)
        tensor([5.], dtype=torch.float64)
    """

    kind = "flat"

    def __init__(self, bank: Tensor, normalize: bool, labels: Tensor | None = None, k: int | None = None) -> None:
        self.bank = bank
        self.normalize = normalize
        self.labels = labels
        self.center = torch.zeros(bank.shape[1], dtype=torch.float64)
        for (part,) in linalg.chunks(bank):
            self.center += self.unit(part).sum(dim=0) / len(bank)
        self.index = self._new_index()
        empty = self.index is not None and self.index.ntotal == 0
        self.largest_square = 0.0
        for (part,) in linalg.chunks(bank):
            rows = self.unit(part).sub_(self.center)
            self.largest_square = max(self.largest_square, float(torch.linalg.vecdot(rows, rows).max()))
            if empty:
                faiss_backend.add_rows(self.index, self.kind, self._for_index(rows))
        if k is not None and self.index is not None:
            self.index = faiss_backend.on_gpu(self.index, self.kind, self._candidates(k))

    def unit(self, rows: Tensor) -> Tensor:
        """The rows as they are compared: a float64 copy, normalised where that is asked for."""
        return linalg.safe_normalize(rows) if self.normalize else rows.to(torch.float64, copy=True)

    def kth_distance(self, queries: Tensor, k: int) -> Tensor:
        """Euclidean distance of each query (B, d) to its k-th nearest row, (B,) float64."""
        return kth_distance([self], queries, k)

    def error_bound(self, centered: Tensor, largest_square: float, dtype: torch.dtype) -> Tensor:
        """How far a squared distance by products in ``dtype`` may be off (B,).

        Rounding of the inputs and of the products, each at most about the unit roundoff times the squared norms; their
        accumulation over d terms grows with sqrt(d). Below the smallest normal number products vanish altogether.
        """
        growth = max(8.0, centered.shape[1] ** 0.5)
        bound: Tensor = (torch.linalg.vecdot(centered, centered) + largest_square) * growth
        return bound * torch.finfo(dtype).eps + torch.finfo(dtype).tiny

    def kth_of_unit(self, queries: Tensor, k: int) -> Tensor:
        """Distance to the k-th nearest row (B,) for queries as :meth:`unit` gives them."""
        squares, ids, bound = self._propose(queries, k)
        # Squared distances beyond float32 leave places unfilled: nothing is known about those queries.
        unfilled = ids[:, -1] < 0
        ids.clamp_min_(0)
        result = self._exact(queries, ids[:, k - 1 : k])[:, 0]
        doubtful = torch.nonzero(unfilled | ~(bound <= TRUSTED * squares[:, k - 1]))[:, 0]
        if len(doubtful):
            outside = squares[doubtful, -1] - bound[doubtful]
            if ids.shape[1] == len(self.bank):
                outside.fill_(float("inf"))
            outside[unfilled[doubtful]] = -float("inf")
            left = self._settle(queries, doubtful, ids[doubtful], outside, k, result)
            if self.labels is not None:
                left = self._settle_in_classes(queries, left, k, result)
            if len(left):
                result[left] = self._kth_by_float64(queries[left], k)
        return result

    def _new_index(self) -> Any:
        if self.bank.numel() > HELD and not faiss_backend.count_gpus():
            return None
        return faiss_backend.new_index(self.kind, self.bank.shape[1], len(self.bank))

    def _candidates(self, k: int) -> int:
        return min(len(self.bank), k + MARGIN)

    def _propose(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Squared distances (B, count), ids and the error bound of the squared distances (B,), by the index."""
        centered = queries - self.center
        rows, count = self._for_index(centered), self._candidates(k)
        if self.index is None:
            squares, ids = self._scan(rows, count)
        else:
            squares, ids = (torch.from_numpy(array) for array in self.index.search(rows, count))
        return squares.double(), ids, self.error_bound(centered, self.largest_square, torch.float32)

    def _scan(self, queries: NDArray[np.float32], count: int) -> tuple[Tensor, Tensor]:
        """What an index would find, nearest first: float32 rows are made block by block."""
        best, found = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.long)
        for start in range(0, len(self.bank), _SCANNED):
            parts = linalg.chunks(self.bank[start : start + _SCANNED])
            rows = np.concatenate([self._for_index(self.unit(part).sub_(self.center)) for (part,) in parts])
            squares, ids = map(torch.from_numpy, faiss_backend.nearest(queries, rows, min(count, len(rows))))
            best, found = (
                torch.cat([best, squares], dim=1),
                torch.cat([found, torch.where(ids < 0, ids, ids + start)], dim=1),
            )
            best, order = best.sort(dim=1, stable=True)
            best, found = best[:, :count], found.gather(1, order[:, :count])
        return best, found

    def _for_index(self, centered: Tensor) -> NDArray[np.float32]:
        rows: NDArray[np.float32] = np.ascontiguousarray(centered.float().numpy())
        return rows

    def _kth_by_float64(self, queries: Tensor, k: int) -> Tensor:
        everything = torch.arange(len(self.bank))
        ids, outside = self._search_float64(queries, everything, self.center, k + MARGIN)
        result = torch.empty(len(queries), dtype=torch.float64)
        left = self._settle(queries, torch.arange(len(queries)), ids, outside, k, result)
        if len(left):
            result[left] = self._kth_by_differences(queries[left], k)
        return result

    def _settle_in_classes(self, queries: Tensor, rows: Tensor, k: int, result: Tensor) -> Tensor:
        """Search the query ``rows`` in their nearest class; return those where rows of others might be closer."""
        classes = self._classes
        to_center = torch.cdist(
            queries[rows], torch.stack([c.center for c in classes]), compute_mode="donot_use_mm_for_euclid_dist"
        )
        home = to_center.argmin(dim=1)
        # Rounding of a distance to a center, generously.
        reach = to_center * (1 - 1e-12) - torch.tensor([c.radius for c in classes], dtype=torch.float64)
        reach.scatter_(1, home[:, None], float("inf"))
        others = reach.amin(dim=1).clamp_min(0)
        left = []
        for index in home.unique().tolist():
            mine = home == index
            if len(classes[index].ids) < k:
                left.append(rows[mine])
                continue
            own = classes[index]
            ids, outside = self._search_float64(queries[rows[mine]], own.ids, own.center, k + MARGIN)
            outside = torch.minimum(outside, others[mine].square())
            left.append(self._settle(queries, rows[mine], ids, outside, k, result))
        return torch.cat([rows[:0], *left])

    def _settle(self, queries: Tensor, rows: Tensor, ids: Tensor, outside: Tensor, k: int, result: Tensor) -> Tensor:
        """Rank the candidates ``ids`` of the query ``rows`` exactly; return the rows where others might be closer.

        ``outside`` is a lower bound of the squared distance of every row that is no candidate, inf where there is none.
        """
        kth = self._exact(queries[rows], ids).kthvalue(k, dim=1).values
        result[rows] = kth
        # Nothing is closer than 0; a bound that overflowed proves nothing.
        return rows[(kth > 0) & ~(kth.square() <= outside)]

    def _exact(self, queries: Tensor, ids: Tensor) -> Tensor:
        distances = torch.empty(ids.shape, dtype=torch.float64)
        step = max(1, _CACHED // (ids.shape[1] * queries.shape[1]))
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            rows = self.unit(self.bank[ids[part].reshape(-1)]).view(*ids[part].shape, -1)
            distances[part] = rows.sub_(queries[part, None]).norm(dim=2)
        return distances

    def _search_float64(self, queries: Tensor, ids: Tensor, center: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The nearest ``count`` of the bank's rows ``ids``, by products in float64 around ``center``.

        Returns:
            Their ids (B, count), and a lower bound of the squared distance of the other rows (B,), inf without others.
        """
        centered = queries - center
        best, found = centered.new_empty(len(queries), 0), ids.new_empty(len(queries), 0)
        largest = 0.0
        for start in range(0, len(ids), _BATCH):
            rows = self.unit(self.bank[ids[start : start + _BATCH]]).sub_(center)
            squares = torch.linalg.vecdot(rows, rows)
            largest = max(largest, float(squares.max()))
            # The query's own norm is the same for all rows and can stay out of the ranking.
            nearest = torch.addmm(squares, centered, rows.T, alpha=-2).topk(min(count, len(rows)), dim=1, largest=False)
            best = torch.cat([best, nearest.values], dim=1)
            found = torch.cat([found, ids[nearest.indices + start]], dim=1)
            best, order = best.topk(min(count, best.shape[1]), dim=1, largest=False)
            found = found.gather(1, order)
        if count >= len(ids):
            return found, torch.full((len(queries),), float("inf"), dtype=torch.float64)
        outside = best[:, -1] + torch.linalg.vecdot(centered, centered)
        return found, outside - self.error_bound(centered, largest, torch.float64)

    @cached_property
    def _classes(self) -> list[_Class]:
        assert self.labels is not None
        found = []
        for label in self.labels.unique().tolist():
            ids = torch.nonzero(self.labels == label)[:, 0]
            parts = [part for (part,) in linalg.chunks(ids)]
            total = torch.zeros_like(self.center)
            center = sum((self.unit(self.bank[part]).sum(dim=0) for part in parts), total) / len(ids)
            radius = max(float(self.unit(self.bank[part]).sub_(center).norm(dim=1).max()) for part in parts)
            # A hair more, for the rounding of center and distances.
            found.append(_Class(ids, center, radius * (1 + 1e-9)))
        return found

    def _kth_by_differences(self, queries: Tensor, k: int) -> Tensor:
        best = torch.empty(len(queries), 0, dtype=torch.float64)
        for (part,) in linalg.chunks(self.bank):
            distances = torch.cdist(queries, self.unit(part), compute_mode="donot_use_mm_for_euclid_dist")
            best = torch.cat([best, distances], dim=1)
            best = best.topk(min(k, best.shape[1]), dim=1, largest=False).values
        return best.amax(dim=1)
