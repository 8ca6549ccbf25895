"""Sums of outer products of rows, in the least precision that an inverse of them bears.

Example:
    >>> import torch
    >>> centered_scatter(torch.tensor([[1.0, 0.0], [3.0, 2.0]]), torch.tensor([2.0, 1.0]))
    tensor([[2., 2.],
            [2., 2.]], dtype=torch.float64)
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ood_nc import accumulate
from ood_nc.detection.kit.linalg import CHUNK, chunks, float32_suffices

_MANY = 1 << 20
"""Fewer numbers than this cost nothing in float64."""
_SAMPLE = 4
"""Rows a column that tell how nearly collinear the columns are."""
_INFLATED = 20.0
"""Variance inflation up to which a float32 scatter (relative rounding 2e-7) inverts to five digits."""


def centered_scatter(rows: Tensor, centers: Tensor, labels: Tensor | None = None) -> Tensor:
    """Sum of outer products of the rows around their centers (d, d), float64.

    Many rows of float32 are multiplied in float32 and added up in float64, unless a sample of them shows columns so
    nearly collinear (collapsed features) that the inverse would lose more than the fifth digit: those in float64.

    Args:
        rows: (N, d).
        centers: (d,) for all rows, or (C, d) with ``labels`` choosing the row's own.
        labels: (N,) class indices.
    """
    centers = torch.atleast_2d(centers)
    index = torch.zeros(len(rows), dtype=torch.long, device=rows.device) if labels is None else labels
    narrow = float32_suffices(rows) and rows.numel() >= _MANY and len(rows) >= 4 * _SAMPLE * rows.shape[1]
    if narrow:
        generator = torch.Generator().manual_seed(0)
        some = torch.randint(len(rows), (_SAMPLE * rows.shape[1],), generator=generator).to(rows.device)
        narrow = variance_inflation(_scatter(rows[some], centers, index[some], torch.float32)) < _INFLATED
    return _scatter(rows, centers, index, torch.float32 if narrow else torch.float64)


def _scatter(rows: Tensor, centers: Tensor, index: Tensor, dtype: torch.dtype) -> Tensor:
    total = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64, device=rows.device)
    parts = accumulate.split(centers.double().clone(), dtype)
    size = CHUNK * 8 // dtype.itemsize  # as many bytes in either precision
    room = torch.empty(min(size, len(rows)), rows.shape[1], dtype=dtype, device=rows.device)
    for part, own in chunks(rows, index, size=size):
        block = room[: len(part)]
        accumulate.add_scatter(total, block, accumulate.center_rows(part, own, parts, block))
    return accumulate.fill_lower(total)


def variance_inflation(covariance: Tensor) -> float:
    """Mean over columns of the variance over that which the other columns leave unexplained; inf where singular.

    Rounding of a covariance (d, d) changes its inverse by about as many times its own size. Columns without variance
    count 1.

    Example:
        >>> round(variance_inflation(torch.tensor([[1.0, 0.6], [0.6, 1.0]], dtype=torch.float64)), 4)
        1.5625
    """
    scale = covariance.diagonal().sqrt()
    scale = torch.where(scale > 0, scale, 1.0)
    correlation = (covariance / scale / scale[:, None]).fill_diagonal_(1.0)
    factor, failed = torch.linalg.cholesky_ex(correlation)
    if int(failed):
        return torch.inf
    identity = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
    return float(torch.linalg.solve_triangular(factor, identity, upper=False).square().sum() / len(factor))


def sum_of_grams(parts: Iterable[Tensor]) -> Tensor:
    """Sum of ``rows' rows`` (d, d) over chunks of float64 rows (n, d).

    Not by NumPy or SciPy, which know the symmetric product: their BLAS has threads of its own, and beside torch's both
    wait for each other.
    """
    total: Tensor | None = None
    for rows in parts:
        total = rows.new_zeros(rows.shape[1], rows.shape[1]) if total is None else total
        accumulate.add_product(total, rows)
    assert total is not None
    return accumulate.fill_lower(total)
