"""The arithmetic of one block of samples: class sums, centring, lengths, and a symmetric product."""

from __future__ import annotations

import torch
from scipy.linalg import blas

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
        sums.index_add_(0, index[rows], part if weights is None else part * weights[rows, None])
    return sums


def center_rows(block: torch.Tensor, index: torch.Tensor, centers: torch.Tensor) -> None:
    """Subtract ``centers[index]`` (float64) from the rows of ``block`` in place; ``centers`` is used up.

    In float32 the centre is split into two float32 numbers and subtracted in two steps. Each step rounds relative to
    the deviation, not to the feature, so an offset of the features costs no digits.
    """
    high = centers.to(block.dtype)
    low = centers.sub_(high).to(block.dtype) if block.dtype != torch.float64 else None
    for rows in slices(*block.shape):
        part = block[rows]
        part.sub_(high[index[rows]])
        if low is not None:
            part.sub_(low[index[rows]])


def squared_norms(block: torch.Tensor) -> torch.Tensor:
    """Return the squared lengths of the rows, as float64, summed in the precision of the block."""
    squares: torch.Tensor = torch.linalg.vector_norm(block, dim=1).double().square()
    if block.dtype == torch.float32:
        # The squares of very short or long rows leave the range of float32.
        outside = ~((squares > 1e-28) & (squares < torch.inf))
        if bool(outside.any()):
            squares[outside] = torch.linalg.vector_norm(block[outside], dim=1, dtype=torch.float64).square()
    return squares


def add_product(
    scatter: torch.Tensor, block: torch.Tensor, factor: float = 1.0, work: torch.Tensor | None = None
) -> None:
    """Add ``factor * block' block`` to the upper triangle of ``scatter`` (d, d), which is float64 and contiguous.

    On the CPU by BLAS's symmetric rank-k update; elsewhere in strips of columns, which leave out the blocks below the
    diagonal. Either way about half of the work of the full product. What lies below the diagonal is never read.
    ``work`` (d, d), float32, receives the product of a float32 block; without it one is allocated.
    """
    if scatter.device.type != "cpu":
        _add_strips(scatter, block, factor)
        return
    columns = block.contiguous().numpy().T
    # BLAS counts by columns: the transposed view's lower triangle is the upper one here.
    if block.dtype == torch.float64:
        blas.dsyrk(factor, columns, beta=1.0, c=scatter.numpy().T, lower=1, overwrite_c=1)
    else:
        product = torch.empty(scatter.shape) if work is None else work
        blas.ssyrk(1.0, columns, beta=0.0, c=product.numpy().T, lower=1, overwrite_c=1)
        for rows in slices(*scatter.shape):
            scatter[rows, rows.start :].add_(product[rows, rows.start :], alpha=factor)


def _add_strips(scatter: torch.Tensor, block: torch.Tensor, factor: float) -> None:
    dim = block.shape[1]
    width = max(64, -(-dim // 8))
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
