"""The arithmetic of one block of samples: class sums, a folded form of Chan's update, a symmetric product."""

from __future__ import annotations

import torch

# Rows whose float64 copy is held at a time: small enough to stay in the cache.
_SLICE_ELEMENTS = 1 << 16


def slices(rows: int, dim: int) -> list[slice]:
    """Cut ``rows`` rows of width ``dim`` into pieces whose float64 copy is small."""
    step = max(16, _SLICE_ELEMENTS // max(dim, 1))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def class_sums(block: torch.Tensor, index: torch.Tensor, weights: torch.Tensor | None, classes: int) -> torch.Tensor:
    """Return the (weighted) float64 sums (classes, d) of the rows of ``block`` that share an ``index``."""
    sums = torch.zeros(classes, block.shape[1], dtype=torch.float64, device=block.device)
    for rows in slices(*block.shape):
        part = block[rows].double()
        if weights is not None:
            part = part * weights[rows, None]
        sums.index_add_(0, index[rows], part)
    return sums


def center_rows(block: torch.Tensor, index: torch.Tensor, centers: torch.Tensor) -> None:
    """Subtract ``centers[index]`` (float64) from the rows of ``block`` in place, rounding once."""
    for rows in slices(*block.shape):
        block[rows].sub_(centers[index[rows]])


def squared_norms(block: torch.Tensor) -> torch.Tensor:
    """Return the squared lengths of the rows in float64."""
    parts = [block[rows].double().square_().sum(dim=1) for rows in slices(*block.shape)]
    return torch.cat(parts) if parts else block.new_zeros(0, dtype=torch.float64)


def add_product(scatter: torch.Tensor, block: torch.Tensor, factor: float = 1.0) -> None:
    """Add ``factor * block' block`` to the upper triangle of ``scatter`` (d, d), in strips of columns.

    The strips leave out the blocks below the diagonal: little more than half of the work of the full product.
    What lies below the diagonal inside a strip is added too and never read.
    """
    dim = block.shape[1]
    width = max(64, -(-dim // 6))
    for start in range(0, dim, width):
        columns = slice(start, min(start + width, dim))
        scatter[columns, start:].add_(block[:, columns].T @ block[:, start:], alpha=factor)


def fill_lower(matrix: torch.Tensor) -> torch.Tensor:
    """Mirror the upper triangle below the diagonal, in place."""
    dim = len(matrix)
    width = 256
    for start in range(0, dim, width):
        stop = min(start + width, dim)
        corner = matrix[start:stop, start:stop].triu()
        matrix[start:stop, start:stop] = corner + corner.triu(1).T
        matrix[stop:, start:stop] = matrix[start:stop, stop:].T
    return matrix
