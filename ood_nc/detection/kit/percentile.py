"""Exact percentiles of all entries of a large matrix, without sorting or copying it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ood_nc.detection.kit.linalg import chunks

_SAMPLE = 2**16


def as_numpy(rows: Tensor) -> NDArray[Any]:
    """The rows for NumPy, which counts and selects several times faster than torch on a CPU; it knows no bfloat16."""
    rows = rows.cpu()
    return rows.numpy() if rows.dtype in (torch.float32, torch.float64) else rows.float().numpy()


def percentile(values: Tensor, percent: float) -> float:
    """Percentile of all entries of a matrix, linearly interpolated between neighbours (NumPy's default).

    Exact, at the price of a few passes: only the entries near the wanted rank are copied and sorted. A selection over
    all of them takes as long at its best, and five times that where half of them are one and the same zero.

    Example:
        >>> percentile(torch.tensor([[0.0, 1.0], [2.0, 3.0]]), 50.0)
        1.5
    """
    last = values.numel() - 1
    position = percent / 100 * last
    rank = min(int(position), last)
    lower, upper = _order_statistics(values, (rank, min(rank + 1, last)))
    return lower + (upper - lower) * (position - rank)


def _order_statistics(values: Tensor, ranks: tuple[int, int]) -> list[float]:
    """Entries of a matrix by their ranks, which are neighbours; rank 0 is the smallest entry."""
    if values.numel() <= _SAMPLE:
        ordered = np.sort(as_numpy(values), axis=None)
        return [float(ordered[rank]) for rank in ranks]
    found = _ranked_between(values, *_bracket(values, ranks[0]), ranks)
    # A sample that misleads is a matter of one in 1e8; then the bracket holds everything.
    return found or _ranked_between(values, -math.inf, math.inf, ranks)


def _bracket(values: Tensor, rank: int) -> tuple[float, float]:
    """Two entries that very likely enclose the rank: a random sample's, six standard errors to either side."""
    rng = torch.Generator().manual_seed(0)
    rows, columns = (torch.randint(size, (_SAMPLE,), generator=rng).to(values.device) for size in values.shape)
    sample = np.sort(as_numpy(values[rows, columns]))
    share = rank / values.numel()
    margin = 6 * math.sqrt(_SAMPLE * share * (1 - share)) + 8
    low, high = math.floor(share * _SAMPLE - margin), math.ceil(share * _SAMPLE + margin)
    return float(sample[low]) if low >= 0 else -math.inf, float(sample[high]) if high < _SAMPLE else math.inf


def _ranked_between(values: Tensor, low: float, high: float, ranks: tuple[int, int]) -> list[float]:
    """Entries by rank where they all lie in [low, high]; otherwise nothing."""
    below = at_low = at_high = 0
    inside = []
    for (part,) in chunks(values):
        entries = as_numpy(part)
        below += np.count_nonzero(entries < low)
        at_low += np.count_nonzero(entries == low)
        at_high += np.count_nonzero(entries == high)
        inside.append(entries[(entries > low) & (entries < high)])
    between = np.sort(np.concatenate(inside))
    found = []
    for rank in ranks:
        place = rank - below
        if not 0 <= place < at_low + len(between) + at_high:
            return []
        # Entries equal to an end are counted, not kept: there may be millions of the same zero.
        if place < at_low:
            found.append(low)
        elif place < at_low + len(between):
            found.append(float(between[place - at_low]))
        else:
            found.append(high)
    return found
