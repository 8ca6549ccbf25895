"""Linear algebra for detectors: in chunks, in float64, with one stated cut-off for what counts as rank.

Rows are samples: features (N, d) of any floating dtype, on any device that has float64. Nothing is changed in place,
and nothing is checked: detectors get their input checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ood_nc import accumulate

CHUNK = 2048
"""Rows per step: a float64 copy of that many stays in the cache."""
RELATIVE_CUTOFF = 1e-12
"""Eigenvalues of a covariance below this share of the largest count as zero."""
_CANCELS = 1e-5
"""A squared distance below this share of the squared norm has lost five of float64's sixteen digits."""
TRUSTED = 2e-6
"""Relative rounding of a float32 product that is left as it is."""
_NEAR_ONE = 0.1
"""Cosines above 1 less this are computed in float64."""
_SAFE_NORMS = (1e-140, 1e140)
NORM_FLOOR = 1e-12
"""Norms are clamped to this, so that a zero row stays a zero row."""


class Eigen(NamedTuple):
    """Eigenvalues in descending order (never negative) and the eigenvectors as columns, float64."""

    values: Tensor
    vectors: Tensor

    def rank(self) -> int:
        """The number of eigenvalues above the relative cut-off."""
        return int((self.values > cutoff(self.values)).sum())


def chunks(*tensors: Tensor, size: int | None = None) -> Iterator[tuple[Tensor, ...]]:
    """Yield aligned row chunks of the tensors, so that float64 copies stay small."""
    size = size or CHUNK
    for start in range(0, len(tensors[0]), size):
        yield tuple(tensor[start : start + size] for tensor in tensors)


def by_chunks(compute: Callable[..., Tensor], *tensors: Tensor, size: int | None = None) -> Tensor:
    """Apply ``compute`` to aligned row chunks of the tensors and join its results (chunk, ...) to (B, ...).

    Where a graph is traced, the rows stay in one piece: their number is not known there.
    """
    if torch.compiler.is_compiling() or len(tensors[0]) <= (size or CHUNK):
        return compute(*tensors)
    joined: Tensor | None = None
    filled = 0
    for parts in chunks(*tensors, size=size):
        result = compute(*parts)
        if joined is None:
            joined = result.new_empty(len(tensors[0]), *result.shape[1:])
        joined[filled : filled + len(result)] = result
        filled += len(result)
    assert joined is not None
    return joined


def at_least_float32(rows: Tensor) -> Tensor:
    """The rows, those in half precision as float32."""
    return rows if rows.dtype in (torch.float32, torch.float64) else rows.float()


def products(rows: Tensor, weight: Tensor) -> Tensor:
    """``rows weight'`` (B, C) as float64, multiplied in the precision of the rows (B, d), at least float32.

    That is how the network's own head computes its logits; float64 would double the time for digits the features do
    not have; it is taken where float32 overflows. Not for what is left after large terms cancel.
    """
    rows = at_least_float32(rows)
    narrow = torch.mm(rows, weight.to(rows.dtype).T).double()
    if torch.compiler.is_compiling() or bool(torch.isfinite(narrow.sum())):
        return narrow
    return torch.mm(rows.double(), weight.double().T)


def safe_normalize(rows: Tensor) -> Tensor:
    """Rows over their Euclidean norms (B, d), in float64; a zero row stays zero, and no norm over- or underflows.

    Example:
        >>> safe_normalize(torch.tensor([[3e30, 4e30], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]], dtype=torch.float64)
    """
    wide = rows.to(torch.float64, copy=True)
    if torch.compiler.is_compiling():
        scale = wide.abs().amax(dim=1, keepdim=True)
        wide = wide / torch.where(scale > 0, scale, torch.ones_like(scale))
        return torch.div(wide, wide.norm(dim=1, keepdim=True).clamp_min(NORM_FLOOR))
    norms = wide.norm(dim=1, keepdim=True)
    if bool(((norms < _SAFE_NORMS[0]) | (norms > _SAFE_NORMS[1])).any()):
        scale = wide.abs().amax(dim=1, keepdim=True)
        wide /= torch.where(scale > 0, scale, torch.ones_like(scale))
        norms = wide.norm(dim=1, keepdim=True).clamp_min(NORM_FLOOR)
    return wide.div_(norms)


def row_mean(rows: Tensor) -> Tensor:
    """Mean of the rows (d,), accumulated in float64."""
    total = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    for (part,) in chunks(rows):
        total += part.sum(dim=0, dtype=torch.float64)
    return total / len(rows)


def near_mean(rows: Tensor) -> Tensor:
    """`row_mean` (d,) to float32's digits of the rows' size, in a third of the time."""
    if rows.dtype != torch.float64:
        total = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
        for (part,) in chunks(rows):
            total += part.sum(dim=0, dtype=torch.float32)
        if bool(torch.isfinite(total).all()):
            return total / len(rows)
    return row_mean(rows)


def class_sums(rows: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Sum of the rows of each class (C, d), in float64."""
    return accumulate.class_sums(rows, labels, None, num_classes)


def float32_suffices(rows: Tensor) -> bool:
    """Whether the rows have no more digits than float32 products keep, and those keep them (no TF32, no trace)."""
    exact = torch.get_float32_matmul_precision() == "highest" and not torch.compiler.is_compiling()
    return exact and rows.dtype != torch.float64


def eigen(symmetric: Tensor) -> Eigen:
    """Eigen-decomposition of a positive semi-definite matrix (d, d), largest first; rounding below zero is clipped.

    Example:
        >>> eigen(torch.diag(torch.tensor([1.0, 4.0], dtype=torch.float64))).values
        tensor([4., 1.], dtype=torch.float64)
    """
    values, vectors = torch.linalg.eigh(symmetric)
    return Eigen(values.flip(0).clamp_min(0), vectors.flip(1))


def explaining(decomposition: Eigen, share: float) -> int:
    """The smallest number of leading eigenvectors, at least 1, that explains a share, in (0, 1], of the total variance.

    Example:
        >>> explaining(eigen(torch.diag(torch.tensor([1.0, 4.0, 5.0], dtype=torch.float64))), 0.9)
        2
    """
    explained = decomposition.values.cumsum(0) / decomposition.values.sum()
    return min(int((explained < share).sum()) + 1, len(explained))


def cutoff(values: Tensor) -> float:
    """The eigenvalue below which a direction counts as absent."""
    return float(values.max()) * max(RELATIVE_CUTOFF, len(values) * torch.finfo(torch.float64).eps)


def nearest_squared_distance(rows: Tensor, centers: Tensor) -> Tensor:
    """Squared Euclidean distance of each row (B, r) to its nearest center (C, r), without a B x C x r tensor.

    One product gives all distances. Where the nearest is so close that the product has lost its digits, it is
    recomputed as a difference.

    Example:
        >>> nearest_squared_distance(torch.tensor([[0.0, 3.0]]), torch.tensor([[0.0, 1.0], [9.0, 9.0]]))
        tensor([4.])
    """
    lengths = torch.linalg.vecdot(centers, centers)[:, None]
    # Centers by rows, not rows by centers: as fast in either layout of the rows.
    offsets, nearest = torch.addmm(lengths, centers, rows.T, alpha=-2).min(dim=0)
    if torch.compiler.is_compiling():
        return (rows - centers[nearest]).square().sum(dim=1)
    norms = torch.linalg.vecdot(rows, rows)
    distances: Tensor = norms + offsets
    close = torch.nonzero(distances < _CANCELS * norms)[:, 0]
    if len(close):
        distances[close] = (rows[close] - centers[nearest[close]]).square_().sum(dim=1)
    return distances


def squared_distances(rows: Tensor, centers: Tensor) -> Tensor:
    """Squared Euclidean distance of each row (B, r) to each center (C, r): (B, C), by one product.

    The smallest of each row, in which the product may have lost its digits, is computed again as a difference.
    """
    norms = torch.linalg.vecdot(rows, rows)
    products = torch.addmm(torch.linalg.vecdot(centers, centers), rows, centers.T, alpha=-2).add_(norms[:, None])
    nearest = products.argmin(dim=1)
    exact = (rows - centers[nearest]).square_().sum(dim=1)
    return products.scatter_(1, nearest[:, None], exact[:, None]).clamp_min_(0)


def head_origin(weight: Tensor, bias: Tensor) -> Tensor:
    """The point u = -W^+ b (d,) at which the head, W (C, d) and b (C,), gives zero logits (least squares).

    Example:
        >>> head_origin(torch.eye(2), torch.tensor([1.0, -2.0]))
        tensor([-1.,  2.])
    """
    if not bool(bias.any()):
        return weight.new_zeros(weight.shape[1])
    # By LAPACK on a processor: its least squares take a third of a pseudo-inverse's time, and know deficient ranks.
    origin: Tensor = torch.linalg.lstsq(weight.cpu(), -bias.cpu()[:, None], driver="gelsd").solution[:, 0]
    return origin.to(weight.device)


def projection_norm(rows: Tensor, origin: Tensor, basis: Tensor) -> Tensor:
    """Norm of each row minus ``origin``, projected on the columns of ``basis`` (d, r): (B,) float64.

    Of float32 rows the product is in float32, except where it overflows, or where so little is left of a row that its
    rounding would show.
    """
    if torch.compiler.is_compiling() or rows.dtype == torch.float64:
        return by_chunks(lambda part: ((part.double() - origin) @ basis).norm(dim=1), rows)
    narrow, shift, offset = basis.float(), -(origin @ basis).float(), torch.linalg.vector_norm(origin).float()
    size = 2 * CHUNK
    # Memory is taken once: to take it for every chunk costs a tenth of the product.
    room = narrow.new_empty(min(size, rows.shape[0]), narrow.shape[1])

    def norms(part: Tensor) -> Tensor:
        """Those of some rows, in float32 where that shows no rounding."""
        wide = part.float()
        product = torch.addmm(shift, wide, narrow, out=room[: len(part)])
        projected: Tensor = torch.linalg.vector_norm(product, dim=1)
        rounding = torch.finfo(torch.float32).eps * (torch.linalg.vector_norm(wide, dim=1) + offset)
        doubtful = torch.nonzero(~(rounding <= TRUSTED * projected) | ~torch.isfinite(projected))[:, 0]
        result = projected.double()
        if len(doubtful):
            result[doubtful] = ((part[doubtful].double() - origin) @ basis).norm(dim=1)
        return result

    return by_chunks(norms, rows, size=size)


def largest_cosine(rows: Tensor, center: Tensor, directions: Tensor) -> Tensor:
    """Largest cosine of each row minus ``center`` (B, d) to the unit or zero ``directions`` (C, d): (B,) float64.

    Of float32 rows the product is in float32, and near 1, where collapsed features lie and float32 could not tell them
    apart, the cosine is computed again in float64.
    """
    if rows.dtype == torch.float64 or torch.compiler.is_compiling():
        cosines = by_chunks(lambda part: (safe_normalize(part - center) @ directions.T).amax(dim=1), rows)
        return cosines.clamp(-1, 1)
    narrow = directions.float()
    high, low = accumulate.split(center.clone(), torch.float32)

    def cosine(part: Tensor) -> Tensor:
        """Those of some rows, in float32 where they are not near 1."""
        centered = (part.float() - high).sub_(low) if bool(center.any()) else part.float()
        lengths = torch.linalg.vector_norm(centered, dim=1, dtype=torch.float64)
        lengths.masked_fill_(lengths == 0, 1.0)
        along, nearest = (centered @ narrow.T).max(dim=1)
        result: Tensor = along.double() / lengths
        near_one = torch.nonzero((1 - result < _NEAR_ONE) | ~torch.isfinite(result))[:, 0]
        if len(near_one):
            exact = safe_normalize(part[near_one] - center)
            result[near_one] = torch.linalg.vecdot(exact, directions[nearest[near_one]])
        return result

    return by_chunks(cosine, rows).clamp(-1, 1)
