"""Training losses: the nearest-neighbour entropy term and the objective it is part of."""

from __future__ import annotations

from ood_nc.losses.entropy import nearest_neighbor_entropy
from ood_nc.losses.objective import Objective

__all__ = ["Objective", "nearest_neighbor_entropy"]
