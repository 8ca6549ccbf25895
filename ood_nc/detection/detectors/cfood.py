"""Neighbourhood rank at which ID train takes a sample in."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ood_nc.detection import DetectorInfo, FeatureDetector, TapStatistics, register_detector
from ood_nc.detection.kit import linalg
from ood_nc.detection.kit.densities import random_subset
from ood_nc.detection.kit.parameters import Parameter, share, whole

_DISTANCES = 1 << 23
"""Distances held at once."""
_CACHED = 1 << 17
"""Distances compared at once: a megabyte."""


@register_detector
class Cfood(FeatureDetector):
    """Minus the smallest neighbourhood that takes the sample in (Angiulli et al., SISAP 2025).

    kappa is the smallest share such that, for at least a share ``k`` of the bank, the normalised sample is no farther
    from a bank's sample than that sample's own (kappa n)-th neighbour in the bank, n the size of the bank; 1 where none
    is. The score is -kappa on the grid of 230 shares, from 0.001 to 0.99, of the authors' code in OpenOOD (fewer in
    small banks), so it has ties.

    Args:
        k: share of the bank that must take the sample in.
        bank_size: samples of ID train, a random subset; None: all. OpenOOD takes 10 %.
        seed: of the random subset.
    """

    name = "cfood"
    info = DetectorInfo(
        title="CF-OOD: Concentration-Free Density Estimation for Reliable Out-of-Distribution Detection",
        venue="SISAP 2025",
        url="https://doi.org/10.1007/978-3-032-06069-3_5",
        needs="features",
        domain="[-1, 0)",
        cost="fit O(bank_size^2 d); score O(B bank_size d)",
    )
    requires = frozenset({"features"})
    closed_form = False

    k = Parameter(0.01, share, search=(0.001, 0.005, 0.01, 0.05))
    bank_size = Parameter[int | None](1000, whole(1).or_none())
    seed = Parameter(0, whole(0))

    def _fit(self, train: TapStatistics) -> None:
        chosen = random_subset(len(train), self.bank_size, self.seed).to(train.device)
        features, size = train.features[chosen], len(chosen)
        # Around their mean, products keep the digits of the distances.
        self.mean_ = linalg.row_mean(linalg.safe_normalize(features))
        self.bank_ = self._centered(features)
        shares, positions = _grid(size)
        self.shares_ = torch.tensor([*shares, 1.0], dtype=torch.float64, device=train.device)
        # A sample's nearest neighbour is itself, and does not count; a bank of one has no other.
        wanted = torch.tensor(positions + 1, device=train.device).clamp_max(size - 1)
        self.radii_ = self._by_distances(lambda distances: _sorted(distances)[:, wanted], self.bank_)

    def _by_distances(self, compute: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """Apply ``compute`` to the squared distances (n, bank) of a few centred rows at a time; join its results."""
        step = max(1, min(linalg.CHUNK, _DISTANCES // len(self.bank_)))
        return torch.cat([compute(linalg.squared_distances(part, self.bank_)) for part in rows.split(step)])

    def _centered(self, features: Tensor) -> Tensor:
        return linalg.safe_normalize(features).sub_(self.mean_)

    def _score_rows(self, features: Tensor) -> Tensor:
        needed = max(1, math.ceil(self.k * len(self.bank_) - 1e-9))

        levels, rows = self.radii_.T.contiguous(), max(1, _CACHED // len(self.bank_))

        def smallest_share(distances: Tensor) -> Tensor:
            return self.shares_[torch.cat([_first_level(part, levels, needed) for part in distances.split(rows)])]

        return -self._by_distances(smallest_share, self._centered(features))


def _first_level(distances: Tensor, levels: Tensor, needed: int) -> Tensor:
    """Of each row (n, bank) the first of the ascending ``levels`` (G, bank) that reaches so many of it, else G.

    By bisection, so of 230 levels 8 are read, and nothing is ranked.
    """
    low = torch.zeros(len(distances), dtype=torch.int64, device=distances.device)
    high = torch.full_like(low, len(levels))
    for _ in range(len(levels).bit_length()):
        middle = (low + high) // 2
        enough = (distances <= levels[middle.clamp_max(len(levels) - 1)]).sum(dim=1) >= needed
        settled = low == high
        low = torch.where(settled | enough, low, middle + 1)
        high = torch.where(settled | ~enough, high, middle)
    return low


def _sorted(distances: Tensor) -> Tensor:
    """Each row ascending; without torch's indices NumPy needs a tenth of its time."""
    return torch.from_numpy(np.sort(distances.cpu().numpy(), axis=1)).to(distances.device)


def _grid(size: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """OpenOOD's shares, and the neighbour each means in a bank; of shares that mean the same one, the smallest."""
    shares = np.concatenate([np.linspace(0.001, 0.1, 100), np.linspace(0.105, 0.5, 81), np.linspace(0.51, 0.99, 49)])
    positions, first = np.unique((shares * size - 1).astype(np.int64), return_index=True)
    return shares[first], positions
