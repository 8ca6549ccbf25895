"""Distance to the k-th nearest ID train feature."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from ood_nc.detection._neighbors import ExactNeighbors
from ood_nc.detection._validation import check_flag, check_whole
from ood_nc.detection.base import Detector, DetectorInfo
from ood_nc.detection.context import TapQueries, TapStatistics
from ood_nc.detection.registry import register_detector
from ood_nc.errors import UserError

DEFAULT_K = 50


@register_detector
class NearestNeighbors(Detector):
    """Minus the Euclidean distance to the k-th nearest feature of ID train (Sun et al., ICML 2022, equation 3).

    The search is exact and right to float64 whatever the collapse of the tap, a common offset, or how many queries
    come at once (see :mod:`ood_nc.detection._neighbors`). A zero feature stays zero when normalised: its distance to
    every unit vector is 1.

    Args:
        k: which neighbour; None: 50, or the size of the bank where that is smaller.
        normalize: L2-normalise features first, as the paper does.
    """

    name = "knn"
    info = DetectorInfo(
        title="Out-of-Distribution Detection with Deep Nearest Neighbors",
        venue="ICML 2022",
        url="https://arxiv.org/abs/2204.06507",
        needs="features",
        domain="(-inf, 0]; [-2, 0] when normalised",
        cost="fit O(N d); score O(B N d)",
    )
    requires = frozenset({"features"})

    bank_: Tensor
    labels_: Tensor | None
    k_: int
    _search: ExactNeighbors | None = None

    def __init__(self, *, k: int | None = None, normalize: bool = True) -> None:
        self.k = k
        self.normalize = normalize

    def _check_parameters(self) -> None:
        check_whole(self, "k", 1, none_allowed=True)
        check_flag(self, "normalize")

    def _search_space(self) -> dict[str, tuple[Any, ...]]:
        return {"k": (1, 5, 10, 20, 50, 100, 200, 500, 1000)}

    def _fit(self, train: TapStatistics) -> None:
        k = min(DEFAULT_K, len(train)) if self.k is None else self.k
        if k > len(train):
            raise UserError(f"Detector 'knn': k = {k} is more than the {len(train)} features of the bank; lower k.")
        # A copy in rows: the caller's may change, and gathering rows of another layout is slow.
        dtype = torch.float64 if train.features.dtype == torch.float64 else torch.float32
        self.bank_ = train.features.cpu().to(dtype, copy=True, memory_format=torch.contiguous_format)
        self.labels_ = train.labels.cpu().clone() if "labels" in train.available else None
        self.k_ = k
        self._search = ExactNeighbors(self.bank_, self.normalize, self.labels_)

    def _score(self, queries: TapQueries) -> Tensor:
        if self._search is None:
            self._search = ExactNeighbors(self.bank_, self.normalize, self.labels_)
        features = queries.features.cpu()
        if self.normalize:
            zeros = int((features == 0).all(dim=1).sum())
            if zeros:
                warnings.warn(f"Detector 'knn': {zeros} of {len(features)} features are all zero.", stacklevel=3)
        return -self._search.kth_distance(features, self.k_).to(queries.device)

    def to(self, device: torch.device) -> NearestNeighbors:
        """Nothing moves: the search runs on the CPU, wherever the features are."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        # The index is rebuilt from the bank; faiss objects neither pickle nor copy.
        return {name: value for name, value in vars(self).items() if name != "_search"}
