"""Distance to the k-th nearest ID train feature."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from ood_nc.detection import DetectorInfo, FeatureDetector, TapQueries, TapStatistics, register_detector
from ood_nc.detection.errors import MissingInputError
from ood_nc.detection.kit.approximate import ApproximateNeighbors
from ood_nc.detection.kit.densities import random_subset
from ood_nc.detection.kit.faiss_backend import INDEX_KINDS, SMALLEST_BANK
from ood_nc.detection.kit.neighbors import ExactNeighbors, kth_distance
from ood_nc.detection.kit.parameters import Parameter, flag, one_of, share, whole
from ood_nc.errors import UserError

DEFAULT_K = 50


@register_detector
class NearestNeighbors(FeatureDetector):
    """Minus the Euclidean distance to the k-th nearest feature of ID train (Sun et al., ICML 2022, equation 3).

    With ``index="flat"`` the search is exact and right to float64 whatever the collapse of the tap, a common offset, or
    how many queries come at once (see :mod:`ood_nc.detection.kit.neighbors`). The other indexes overlook some
    neighbours, most of them on collapsed taps, where float32 cannot tell them apart, and where classes have fewer than
    k features; the distances themselves are exact. A zero feature stays zero when normalised: its distance to every
    unit vector is 1.

    Args:
        k: which neighbour; None: 50, or the size of the (smallest) bank where that is smaller.
        normalize: L2-normalise features first, as the paper does.
        index: "flat" (exact), "ivf" (cells), "hnsw" (graph, built by one thread so that it can be repeated) or "ivfpq"
            (cells of 4-bit codes: a sixteenth of the memory beside the bank). Banks below 1,000 features (ivfpq:
            10,000) are searched exactly, with a warning.
        recall: what such an index is tuned for: the share of the k nearest of held-out train features that it finds.
        bank_size: keep at most so many train features, drawn at random; None: all.
        balanced: draw so that classes have equal shares, as far as they have samples; without ``bank_size``, as many of
            each as the smallest class has. Needs labels.
        per_class: the k-th distance within each class, the smallest over the classes. Needs labels.
        seed: of the draw, and of the clustering in the index.
    """

    name = "knn"
    info = DetectorInfo(
        title="Out-of-Distribution Detection with Deep Nearest Neighbors",
        venue="ICML 2022",
        url="https://arxiv.org/abs/2204.06507",
        needs="features; labels where balanced or per_class",
        domain="(-inf, 0]; [-2, 0] when normalised",
        cost="fit O(N d); score O(B N d)",
    )
    requires = frozenset({"features"})
    closed_form = False

    index_: Tensor
    index_sizes_: Tensor
    index_counts_: Tensor
    _banks: list[ExactNeighbors] | None = None

    k = Parameter[int | None](None, whole(1).or_none(), search=(1, 5, 10, 20, 50, 100, 200, 500, 1000))
    normalize = Parameter(True, flag, search=(True, False))
    index = Parameter("flat", one_of(*INDEX_KINDS))
    recall = Parameter(0.99, share)
    bank_size = Parameter[int | None](None, whole(1).or_none())
    balanced = Parameter(False, flag)
    per_class = Parameter(False, flag)
    seed = Parameter(0, whole(0))

    def _fit(self, train: TapStatistics) -> None:
        labels = train.labels.cpu() if "labels" in train.available else None
        if labels is None and (self.balanced or self.per_class):
            raise MissingInputError(self.name, {"labels"}, {"features", "labels"}, "fit")
        rows = _draw(len(train), labels, self.bank_size, self.balanced, self.seed)
        if labels is not None and self.per_class:
            rows = rows[labels[rows].argsort(stable=True)]
            if len(labels[rows].unique()) < len(train.classes):
                raise UserError("Detector 'knn': bank_size leaves a class without features; set balanced, or raise it.")
        self.labels_ = None if labels is None else labels[rows]
        # A copy in rows: the caller's may change, and gathering rows of another layout is slow.
        whole = len(rows) == len(train) and not self.per_class
        features = train.features if whole else train.features[rows.to(train.device)]
        self.bank_ = features.cpu().to(features.dtype, copy=whole, memory_format=torch.contiguous_format)
        self.k_ = self._kth()
        sizes = self._bank_sizes()
        small = sum(size < SMALLEST_BANK[self.index] for size in sizes)
        if small:
            warnings.warn(
                f"Detector 'knn': index {self.index!r} takes {SMALLEST_BANK[self.index]} features or more; "
                f"{small} of {len(sizes)} banks hold fewer and are searched exactly.",
                stacklevel=4,
            )
        self._banks = self._build()

    def _score(self, queries: TapQueries) -> Tensor:
        if self._banks is None:
            self._banks = self._build()
        features = queries.features.cpu()
        if self.normalize:
            zeros = int((features == 0).all(dim=1).sum())
            if zeros:
                warnings.warn(f"Detector 'knn': {zeros} of {len(features)} features are all zero.", stacklevel=3)
        return -kth_distance(self._banks, features, self.k_).to(queries.device)

    def to(self, device: torch.device) -> NearestNeighbors:
        """Nothing moves: the bank stays on the CPU, wherever the features are."""
        return self

    def state_dict(self) -> dict[str, Any]:
        """The hyper-parameters and everything learnt, approximate indexes as bytes in ``index_``."""
        state = super().state_dict()
        state["fitted"].update(self._stored_indexes())
        return state

    def __getstate__(self) -> dict[str, Any]:
        # faiss objects neither pickle nor copy.
        kept = {name: value for name, value in vars(self).items() if name != "_banks"}
        return {**kept, **self._stored_indexes()}

    def _kth(self) -> int:
        sizes = self._bank_sizes()
        smallest = min(sizes)
        k = min(DEFAULT_K, smallest) if self.k is None else self.k
        if k > smallest:
            where = "the bank"
            if self.per_class and self.labels_ is not None:
                where = f"class {int(self.labels_.unique()[sizes.index(smallest)])}"
            raise UserError(f"Detector 'knn': k = {k} is more than the {smallest} features of {where}; lower k.")
        return k

    def _bank_sizes(self) -> list[int]:
        if self.per_class and self.labels_ is not None:
            sizes: list[int] = self.labels_.unique_consecutive(return_counts=True)[1].tolist()
            return sizes
        return [len(self.bank_)]

    def _build(self) -> list[ExactNeighbors]:
        """One search a bank, from the stored indexes where there are; those are then kept as indexes alone."""
        sizes = self._bank_sizes()
        stored: list[Tensor | None] = [None] * len(sizes)
        counts: list[int | None] = [None] * len(sizes)
        if "index_" in vars(self):
            stored = list(self.index_.split(self.index_sizes_.tolist()))
        if "index_counts_" in vars(self):  # not in a state of an earlier version, whose index is then tuned
            counts = self.index_counts_.tolist()
        labels = None if self.per_class or self.labels_ is None else self.labels_
        banks: list[ExactNeighbors] = []
        for rows, data, count in zip(self.bank_.split(sizes), stored, counts, strict=True):
            if self.index == "flat" or len(rows) < SMALLEST_BANK[self.index]:
                banks.append(ExactNeighbors(rows, self.normalize, labels, self.k_))
            else:
                tuned: dict[str, Any] = {"k": self.k_, "recall": self.recall, "seed": self.seed}
                banks.append(ApproximateNeighbors(rows, self.normalize, self.index, **tuned, stored=data, count=count))
        for name in ("index_", "index_sizes_", "index_counts_"):
            vars(self).pop(name, None)
        return banks

    def _stored_indexes(self) -> dict[str, Tensor]:
        if not any(isinstance(bank, ApproximateNeighbors) for bank in self._banks or ()):
            return {}
        none = torch.empty(0, dtype=torch.uint8)
        parts = [bank.stored() if isinstance(bank, ApproximateNeighbors) else none for bank in self._banks or ()]
        counts = [bank.count if isinstance(bank, ApproximateNeighbors) else 0 for bank in self._banks or ()]
        sizes = torch.tensor([len(part) for part in parts])
        return {"index_": torch.cat(parts), "index_sizes_": sizes, "index_counts_": torch.tensor(counts)}


def _draw(n: int, labels: Tensor | None, size: int | None, balanced: bool, seed: int) -> Tensor:
    """Row numbers of the bank, ascending."""
    if labels is None or not balanced:
        return random_subset(n, size, seed)
    classes, positions, counts = labels.unique(return_inverse=True, return_counts=True)
    if size is not None and size < len(classes):
        raise UserError(f"Detector 'knn': bank_size = {size} is less than the {len(classes)} classes to balance.")
    quotas = _quotas(counts, len(classes) * int(counts.min()) if size is None else size)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    by_class = order[positions[order].argsort(stable=True)]
    place = torch.arange(n) - (counts.cumsum(0) - counts)[positions[by_class]]
    return by_class[place < quotas[positions[by_class]]].sort().values


def _quotas(counts: Tensor, size: int) -> Tensor:
    """Samples to take of each class: as equal as the counts allow, ``size`` in all or every sample there is."""
    low, high = 0, int(counts.max())
    while low < high:
        middle = (low + high + 1) // 2
        if int(counts.clamp_max(middle).sum()) <= size:
            low = middle
        else:
            high = middle - 1
    quotas = counts.clamp_max(low)
    larger = torch.nonzero(counts > low)[:, 0]
    quotas[larger[: size - int(quotas.sum())]] += 1
    return quotas
