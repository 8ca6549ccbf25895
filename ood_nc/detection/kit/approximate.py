"""Nearest neighbours through an index that overlooks some of them; the distances of those it finds are exact.

How much the index looks into is settled by recall: rows of the bank are searched as if they were queries, themselves
left out, and so are random mixtures of all of these, which have the bank's mean and covariance and lie outside of its
classes as OOD queries do; the least effort is kept that finds the wanted share of the true neighbours of both, a
standard error to spare.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ood_nc.caching import cached_property
from ood_nc.detection.kit import faiss_backend, linalg
from ood_nc.detection.kit.neighbors import MARGIN, TRUSTED, ExactNeighbors
from ood_nc.errors import UserError

_HELD_OUT = 100
"""Rows, and mixtures of them, that recall is measured on: 5,000 neighbours each at k = 50."""
_GATHERED = 16
"""Queries whose candidates become float32 at once, where the bank is in half precision."""
_CODED = (2, 4, 8, 16, 32, 64)
"""Candidates that are looked up among codes, in those that are ranked in float64."""
_USUAL_SIZES = (1e-12, 1e12)
"""Of features in an index: where squares of float32 overflow, faiss's clustering ends the process."""


class ApproximateNeighbors(ExactNeighbors):
    """A large bank to search through an index that overlooks some neighbours; distances are exact all the same.

    Codes (``ivfpq``) give some hundreds of candidates; products in float32 leave k and a margin of these, and float64
    ranks them. Queries for which the index finds fewer than k rows are searched exactly.

    Args:
        bank: (n, d) of any floating dtype on the CPU; kept by reference.
        normalize: compare L2-normalised rows.
        kind: "ivf", "hnsw" or "ivfpq".
        k: what will be asked for; the index is tuned for it, and moves to GPUs where faiss has some.
        recall: share of the k nearest, of held-out rows and of mixtures of these, that a search finds.
        seed: of the clustering, and of the rows that it learns from and those held out.
        stored: the bytes of the index, to load it instead of building it.
        count: candidates of the stored index (`count`), None where it is to be tuned again.

    Raises:
        MissingPackageError: faiss is not installed.
        UserError: ``stored`` is no index of this bank, or some rows are 1e12 times as large as most.
    """

    def __init__(
        self,
        bank: Tensor,
        normalize: bool,
        kind: str,
        *,
        k: int,
        recall: float = 0.99,
        seed: int = 0,
        stored: Tensor | None = None,
        count: int | None = None,
    ) -> None:
        self.kind = kind
        self.seed = seed
        self.recall = recall
        self.count = count
        self._stored = stored
        super().__init__(bank, normalize, k=k)
        self._stored = None

    def stored(self) -> Tensor:
        """The index as bytes, (size,) uint8."""
        return torch.from_numpy(faiss_backend.index_to_bytes(self.index))

    def kth_of_unit(self, queries: Tensor, k: int) -> Tensor:
        """Distance to the k-th nearest of the rows the index finds (B,), for queries as :meth:`unit` gives them."""
        ids, trusted = self.candidates(queries, k)
        enough = ids[:, k - 1] >= 0
        result = torch.empty(len(queries), dtype=torch.float64)
        result[trusted] = self._exact(queries[trusted], ids[trusted, k - 1 : k])[:, 0]
        again = enough & ~trusted
        distances = self._exact(queries[again], ids[again].clamp_min(0))
        result[again] = distances.masked_fill_(ids[again] < 0, float("inf")).kthvalue(k, dim=1).values
        if not bool(enough.all()):
            result[~enough] = self._kth_by_float64(queries[~enough], k)
        return result

    def candidates(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The rows that are ranked in float64 (B, k or more), -1 for none, and where their order stands already (B,).

        Args:
            queries: as :meth:`unit` gives them (B, d).
            k: how many neighbours are wanted.
        """
        squares, ids, bound = self._propose(queries, k)
        # Distances between codes rank nothing; float32 distances do, where the bound allows.
        if self.kind == "ivfpq":
            return self._nearest_in_float32(queries, ids, k + MARGIN), torch.zeros(len(ids), dtype=torch.bool)
        return ids, (ids[:, k - 1] >= 0) & (bound <= TRUSTED * squares[:, k - 1] / self._scale**2)

    def _new_index(self) -> Any:
        width = self.bank.shape[1]
        if self._stored is not None:
            index = faiss_backend.index_from_bytes(self._stored.cpu().numpy())
            if index.ntotal != len(self.bank):
                raise UserError(f"The stored index holds {index.ntotal} rows, the bank {len(self.bank)}.")
            if index.d != width:
                raise UserError(f"The stored index has {index.d} columns instead of {width}: fit the detector again.")
            return index
        index = faiss_backend.new_index(self.kind, width, len(self.bank), self.seed)
        count = min(len(self.bank), faiss_backend.training_rows(index, self.kind))
        if count:
            parts = [
                self._for_index(self.unit(self.bank[ids]).sub_(self.center))
                for (ids,) in linalg.chunks(self._drawn(count))
            ]
            index.train(np.concatenate(parts))
        return index

    @cached_property
    def _scale(self) -> float:
        """What rows are multiplied by on their way into the index: a power of two, 1 for rows of a usual size."""
        if self.normalize:
            return 1.0
        largest = max(float(part.abs().max()) for (part,) in linalg.chunks(self.bank))
        usual = float(self.bank[self._drawn(_HELD_OUT)].abs().amax(dim=1).median()) or largest
        if largest > _USUAL_SIZES[1] * usual:
            raise UserError(
                f"Index {self.kind!r} cannot hold features of {largest:.1e} beside ones of {usual:.1e}: leave out the "
                f"largest, normalise, or search with index 'flat'."
            )
        return 1.0 if usual == 0 or _USUAL_SIZES[0] < usual < _USUAL_SIZES[1] else 2.0 ** -math.frexp(usual)[1]

    def _for_index(self, centered: Tensor) -> NDArray[np.float32]:
        return super()._for_index(centered * self._scale)

    def _candidates(self, k: int) -> int:
        if self.count is None:
            self.count = self._tune(k)
        return self.count

    def _tune(self, k: int) -> int:
        """Set the least effort, and return the fewest candidates, with which held-out rows find their neighbours."""
        own = self._drawn(min(_HELD_OUT, len(self.bank)))
        rows, least = self.unit(self.bank[own]), min(len(self.bank), k + MARGIN)
        weights = torch.randn(len(own), len(own), dtype=torch.float64, generator=self._generator()) / len(own) ** 0.5
        outside = weights @ (rows - self.center) + self.center
        queries = torch.cat([rows, linalg.safe_normalize(outside) if self.normalize else outside])
        own = torch.cat([own, torch.full_like(own, -2)])[:, None]
        true, _ = self._search_float64(queries, torch.arange(len(self.bank)), self.center, min(len(self.bank), k + 1))
        # A hair more, and by distance: of rows that tie any will do.
        places = self._exact(queries, true).sort(dim=1).values * (1 + 1e-9)
        wanted = min(k, true.shape[1] - 1)
        reach = torch.where(own < 0, places[:, wanted - 1 : wanted], places[:, wanted : wanted + 1])
        counts = [min(len(self.bank), factor * least) for factor in _CODED] if self.kind == "ivfpq" else [least]
        best = 0.0
        for effort in faiss_backend.efforts(self.index, self.kind, least):
            faiss_backend.set_effort(self.index, self.kind, effort)
            ids = torch.from_numpy(self.index.search(self._for_index(queries - self.center), counts[-1])[1])
            for count in counts:
                nearest = self._nearest_in_float32(queries, ids[:, :count], least)
                found = (self._exact(queries, nearest.clamp_min(0)) <= reach) & (nearest >= 0) & (nearest != own)
                shares = found.sum(dim=1).clamp_max(wanted).double().div(wanted).split(len(rows))
                best = min(float(share.mean() - share.std(correction=0) / len(share) ** 0.5) for share in shares)
                if best >= self.recall:
                    return count
        warnings.warn(
            f"Index {self.kind!r} finds {best:.4f} of the neighbours of held-out queries at most, "
            "a standard error taken off.",
            stacklevel=2,
        )
        return counts[-1]

    def _drawn(self, count: int) -> Tensor:
        return torch.randperm(len(self.bank), generator=self._generator())[:count]

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def _nearest_in_float32(self, queries: Tensor, ids: Tensor, count: int) -> Tensor:
        """Of the candidates ``ids`` (-1 for none) the ``count`` nearest by float32, nearest first."""
        if ids.shape[1] <= count or self.bank.dtype == torch.float64:
            return ids
        scales, squares = self._scales
        distances = squares[ids] - 2 * scales[ids] * self._products(queries.float(), ids.clamp_min(0))
        if not bool(distances.isfinite().all()):
            return ids
        order = distances.masked_fill_(ids < 0, float("inf")).topk(count, dim=1, largest=False).indices
        return ids.gather(1, order)

    def _products(self, queries: Tensor, ids: Tensor) -> Tensor:
        """Inner products of each query with its rows (B, c), float32."""
        if self.bank.dtype == torch.float32:
            return torch.from_numpy(
                faiss_backend.products(self._rows, queries.numpy(), np.ascontiguousarray(ids.numpy()))
            )
        found = torch.empty(ids.shape)
        for part, own, out in zip(*(rows.split(_GATHERED) for rows in (queries, ids, found)), strict=True):
            rows = self.bank[own.reshape(-1)].float().view(*own.shape, -1)
            out.copy_(torch.bmm(rows, part[:, :, None])[:, :, 0])
        return found

    @cached_property
    def _rows(self) -> NDArray[np.float32]:
        return np.ascontiguousarray(self.bank.numpy())

    @cached_property
    def _scales(self) -> tuple[Tensor, Tensor]:
        """What each row is multiplied by before it is compared, and the square of its norm then (n,), float32."""
        norms = linalg.by_chunks(lambda part: torch.linalg.vector_norm(part, dim=1, dtype=torch.float64), self.bank)
        if not self.normalize:
            return torch.ones(len(norms)), norms.square().float()
        return (1 / norms).nan_to_num(posinf=0).float(), (norms > 0).float()
