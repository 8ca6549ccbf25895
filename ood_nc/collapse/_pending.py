"""The block of samples that waits until it is worth a matrix product."""

from __future__ import annotations

import math
import threading

import torch

from ood_nc.accumulate import largest_magnitude, length
from ood_nc.errors import UserError

LARGEST = 1e145
"""The sum of the squares of a billion rows of ten thousand such numbers is still within float64."""

WIDE = 1e38
"""Deviations of larger numbers can overflow float32."""


class Pending:
    """Rows copied from the caller's batches, in one dtype, with their labels and (optional) weights.

    Attributes:
        rows: how many there are.
        settling: held by the thread that counts them when the statistics are read.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.settling = threading.Lock()
        self._features: torch.Tensor | None = None
        self._labels = torch.empty(0, dtype=torch.long)
        self._weights: torch.Tensor | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a block, with rows or without."""
        return self._features is not None

    @property
    def is_full(self) -> bool:
        """Whether no row is left."""
        return self._features is not None and self.rows == len(self._features)

    def accepts(self, dtype: torch.dtype, weighted: bool) -> bool:
        """Whether rows of this dtype, weighted or not, can be added as the block stands."""
        return self._features is not None and self._features.dtype == dtype and (self._weights is not None) == weighted

    def open(self, rows: int, dim: int, dtype: torch.dtype, device: torch.device, weighted: bool) -> None:
        """Make room for ``rows`` rows; the block must be empty."""
        self._features = torch.empty(rows, dim, dtype=dtype, device=device)
        self._labels = torch.empty(rows, dtype=torch.long, device=device)
        self._weights = torch.empty(rows, dtype=torch.float64, device=device) if weighted else None

    def room(self) -> torch.Tensor:
        """The memory of the whole block, for a caller that has its rows elsewhere; the block must be empty."""
        assert self._features is not None
        return self._features

    def fill(self, matrix: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None, start: int) -> int:
        """Copy as many rows from ``start`` on as fit; return how many."""
        assert self._features is not None
        count = min(len(matrix) - start, len(self._features) - self.rows)
        source, target = slice(start, start + count), slice(self.rows, self.rows + count)
        self._features[target].copy_(matrix[source])
        self._labels[target].copy_(labels[source])
        if self._weights is not None and weights is not None:
            self._weights[target].copy_(weights[source])
        self.rows += count
        return count

    def take(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Empty the block and return its rows as views that may be changed until the next `fill`."""
        assert self._features is not None
        rows, self.rows = self.rows, 0
        weights = None if self._weights is None else self._weights[:rows]
        return self._features[:rows], self._labels[:rows], weights


def check_finite(matrix: torch.Tensor) -> float:
    """Return the largest magnitude, or more where that is below `WIDE`.

    Raises:
        UserError: a value is not finite, or its square is not.
    """
    # No number is longer than all of them, and their length takes half the time.
    bound = length(matrix) if matrix.dtype.itemsize >= 4 else math.inf
    if bound <= WIDE:
        return bound
    size = largest_magnitude(matrix)
    if not math.isfinite(size):
        row = int((~torch.isfinite(matrix)).any(dim=1).nonzero()[0])
        raise UserError(f"features must be finite; row {row} holds NaN or infinity.")
    if size > LARGEST:
        raise UserError(f"features reach {size:.1e}, and float64 has no room for their squares: scale them.")
    return size
