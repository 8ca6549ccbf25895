"""Nearest neighbours through an index that overlooks some of them; the distances of those it finds are exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ood_nc.detection.kit import faiss_backend, linalg
from ood_nc.detection.kit.neighbors import MARGIN, TRUSTED, ExactNeighbors
from ood_nc.errors import UserError


class ApproximateNeighbors(ExactNeighbors):
    """A large bank to search through an index that overlooks some neighbours; distances are exact all the same.

    Queries for which the index finds fewer than k rows are searched exactly.

    Args:
        bank: (n, d) float32 or float64 on the CPU; kept by reference.
        normalize: compare L2-normalised rows.
        kind: "ivf", "hnsw" or "ivfpq".
        seed: of the clustering and of the rows it learns from.
        k: what will be asked for; with it, the index moves to a GPU where faiss has one.
        stored: the bytes of the index, to load it instead of building it.

    Raises:
        MissingPackageError: faiss is not installed.
        UserError: ``stored`` is no index of this bank.
    """

    def __init__(
        self,
        bank: Tensor,
        normalize: bool,
        kind: str,
        *,
        seed: int = 0,
        k: int | None = None,
        stored: Tensor | None = None,
    ) -> None:
        self.kind = kind
        self.seed = seed
        self._stored = stored
        super().__init__(bank, normalize, k=k)
        self._stored = None

    def stored(self) -> Tensor:
        """The index as bytes, (size,) uint8."""
        return torch.from_numpy(faiss_backend.index_to_bytes(self.index))

    def kth_of_unit(self, queries: Tensor, k: int) -> Tensor:
        """Distance to the k-th nearest of the rows the index finds (B,), for queries as :meth:`unit` gives them."""
        squares, ids, bound = self._propose(queries, k)
        enough = ids[:, k - 1] >= 0
        # Distances between codes rank nothing; float32 distances do, where the bound allows.
        trusted = enough & (bound <= TRUSTED * squares[:, k - 1]) & (self.kind != "ivfpq")
        result = torch.empty(len(queries), dtype=torch.float64)
        result[trusted] = self._exact(queries[trusted], ids[trusted, k - 1 : k])[:, 0]
        again = enough & ~trusted
        distances = self._exact(queries[again], ids[again].clamp_min(0))
        result[again] = distances.masked_fill_(ids[again] < 0, float("inf")).kthvalue(k, dim=1).values
        if not bool(enough.all()):
            result[~enough] = self._kth_by_float64(queries[~enough], k)
        return result

    def _new_index(self) -> Any:
        if self._stored is not None:
            index = faiss_backend.index_from_bytes(self._stored.cpu().numpy())
            if index.ntotal != len(self.bank):
                raise UserError(f"The stored index holds {index.ntotal} rows, the bank {len(self.bank)}.")
            return index
        width = faiss_backend.index_width(self.kind, self.bank.shape[1])
        index = faiss_backend.new_index(self.kind, width, len(self.bank), self.seed)
        count = min(len(self.bank), faiss_backend.training_rows(index, self.kind))
        if count:
            chosen = torch.randperm(len(self.bank), generator=torch.Generator().manual_seed(self.seed))[:count]
            parts = [self._for_index(self.unit(self.bank[ids]).sub_(self.center)) for (ids,) in linalg.chunks(chosen)]
            index.train(np.concatenate(parts))
        return index

    def _candidates(self, k: int) -> int:
        return min(len(self.bank), 4 * k + 3 * MARGIN if self.kind == "ivfpq" else k + MARGIN)
