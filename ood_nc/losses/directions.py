"""Directions of features, over the whole range of floating point."""

from __future__ import annotations

import torch
import torch.nn.functional as F

_SHORTEST = 1e-20


def directions(rows: torch.Tensor) -> torch.Tensor:
    """Rows of length 1, whatever their size; those that have none to speak of are 0 and give no gradient."""
    largest = rows.detach().abs().amax(dim=1, keepdim=True)
    there = largest > _SHORTEST
    return F.normalize(torch.where(there, rows / torch.where(there, largest, 1.0), 0.0), dim=1)
