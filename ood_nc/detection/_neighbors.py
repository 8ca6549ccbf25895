"""Exact nearest neighbours that hold against float64, at the speed of a float32 index.

faiss computes |x|^2 + |y|^2 - 2 x.y in float32. Where neighbours are much closer to each other than to the origin of
the index (collapsed features, a common offset) the digits cancel and the result is noise. So:

1. rows are normalised and centred on the bank's mean in float64 before they become float32;
2. faiss proposes k + margin candidates per query;
3. where the error bound of the float32 distances is too large against the k-th of them, candidates are ranked again in
   float64; the result stands if no row outside the candidates can be closer than the k-th, by the same bound;
4. the queries left over are searched in float64 throughout.

The distance returned is always recomputed in float64 from the rows themselves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ood_nc.detection import _linalg
from ood_nc.detection.faiss_backend import load_faiss

_BATCH = 4096
_MARGIN = 32
_TRUSTED = 1e-5
"""Relative error of a squared float32 distance that changes no score by more than half of it."""


class ExactNeighbors:
    """A bank to search.

    Args:
        bank: (n, d) float32 or float64 on the CPU; kept by reference.
        normalize: compare L2-normalised rows.

    Raises:
        MissingPackageError: faiss is not installed.
    """

    def __init__(self, bank: Tensor, normalize: bool) -> None:
        faiss = load_faiss()
        self.bank = bank
        self.normalize = normalize
        self.center = torch.zeros(bank.shape[1], dtype=torch.float64)
        self.center = self._mean()
        self.index: Any = faiss.IndexFlatL2(bank.shape[1])
        largest = 0.0
        for (part,) in _linalg.chunks(bank):
            rows = self._prepared(part)
            largest = max(largest, float(rows.square().sum(dim=1).max()))
            self.index.add(_as_float32(rows))
        self.largest_square = largest

    def kth_distance(self, queries: Tensor, k: int) -> Tensor:
        """Euclidean distance of each query (B, d) to its k-th nearest row, (B,) float64."""
        distances = torch.empty(len(queries), dtype=torch.float64)
        for start in range(0, len(queries), _BATCH):
            part = slice(start, start + _BATCH)
            distances[part] = self._kth_of_batch(self._prepared(queries[part]), k)
        return distances

    def _kth_of_batch(self, queries: Tensor, k: int) -> Tensor:
        count = min(len(self.bank), k + _MARGIN)
        squares, ids = (torch.from_numpy(array) for array in self.index.search(_as_float32(queries), count))
        bound = self._error_bound(queries)
        result = self._exact(queries, ids[:, k - 1 : k])[:, 0]
        doubtful = torch.nonzero(bound > _TRUSTED * squares[:, k - 1].double())[:, 0]
        if len(doubtful):
            ranked = self._exact(queries[doubtful], ids[doubtful]).sort(dim=1).values
            result[doubtful] = ranked[:, k - 1]
            outside = squares[doubtful, -1].double() - bound[doubtful]
            proven = (ranked[:, k - 1] ** 2 <= outside) | (count == len(self.bank))
            left = doubtful[~proven]
            if len(left):
                result[left] = self._search_float64(queries[left], k)
        return result

    def _error_bound(self, queries: Tensor) -> Tensor:
        """How far a squared float32 distance may be off (B,).

        Rounding of the inputs and of the products, each at most about the unit roundoff times the squared norms; their
        accumulation over d terms grows with sqrt(d).
        """
        growth = max(8.0, queries.shape[1] ** 0.5)
        norms = queries.square().sum(dim=1) + self.largest_square
        return growth * torch.finfo(torch.float32).eps * norms

    def _exact(self, queries: Tensor, ids: Tensor) -> Tensor:
        distances = torch.empty(ids.shape, dtype=torch.float64)
        step = max(1, (1 << 22) // max(1, ids.shape[1] * queries.shape[1]))
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            rows = self._prepared(self.bank[ids[part].reshape(-1)]).view(*ids[part].shape, -1)
            distances[part] = (rows - queries[part, None]).norm(dim=2)
        return distances

    def _search_float64(self, queries: Tensor, k: int) -> Tensor:
        count = min(len(self.bank), k + _MARGIN)
        best = torch.full((len(queries), 0), float("inf"), dtype=torch.float64)
        ids = torch.empty((len(queries), 0), dtype=torch.int64)
        for start in range(0, len(self.bank), _BATCH):
            rows = self._prepared(self.bank[start : start + _BATCH])
            squares = torch.addmm(rows.square().sum(dim=1), queries, rows.T, alpha=-2)
            best = torch.cat([best, squares], dim=1)
            ids = torch.cat([ids, torch.arange(start, start + len(rows)).expand(len(queries), -1)], dim=1)
            keep = best.topk(min(count, best.shape[1]), dim=1, largest=False)
            best, ids = keep.values, ids.gather(1, keep.indices)
        ranked: Tensor = self._exact(queries, ids).sort(dim=1).values
        return ranked[:, k - 1]

    def _prepared(self, rows: Tensor) -> Tensor:
        rows = _linalg.safe_normalize(rows) if self.normalize else rows.double()
        return rows - self.center

    def _mean(self) -> Tensor:
        total = torch.zeros_like(self.center)
        for (part,) in _linalg.chunks(self.bank):
            total += self._prepared(part).sum(dim=0)
        return total / len(self.bank)


def _as_float32(rows: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    array: np.ndarray[Any, np.dtype[np.float32]] = np.ascontiguousarray(rows.float().numpy())
    return array
