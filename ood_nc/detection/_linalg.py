"""Linear algebra the detectors share: chunked, in float64, with one stated cut-off for what counts as rank."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from scipy.linalg import blas
from torch import Tensor

CHUNK = 2048
"""Rows per step: a float64 copy of that many stays in the cache."""
RELATIVE_CUTOFF = 1e-12
"""Eigenvalues of a covariance below this share of the largest count as zero."""
_CANCELS = 1e-5
"""A squared distance below this share of the squared norm has lost five of float64's sixteen digits."""
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


def chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield aligned row chunks of the tensors, so that float64 copies stay small."""
    for start in range(0, len(tensors[0]), CHUNK):
        yield tuple(tensor[start : start + CHUNK] for tensor in tensors)


def safe_normalize(rows: Tensor) -> Tensor:
    """Rows over their Euclidean norms, in float64; a zero row stays zero, and no norm over- or underflows."""
    wide = rows.to(torch.float64, copy=True)
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


def class_sums(rows: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Sum of the rows of each class (C, d), in float64."""
    sums = torch.zeros(num_classes, rows.shape[1], dtype=torch.float64, device=rows.device)
    for part, part_labels in chunks(rows, labels):
        sums.index_add_(0, part_labels, part.double())
    return sums


def centered_scatter(rows: Tensor, centers: Tensor, labels: Tensor | None = None) -> Tensor:
    """Sum of outer products of the rows around their centers (d, d), float64.

    Args:
        rows: (N, d).
        centers: (d,) for all rows, or (C, d) with ``labels`` choosing the row's own.
        labels: (N,) class indices.
    """
    dim = rows.shape[1]
    scatter = torch.zeros(dim, dim, dtype=torch.float64, device=rows.device)
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK].to(torch.float64, copy=True)
        part -= centers if labels is None else centers[labels[start : start + CHUNK]]
        scatter += gram(part)
    return scatter


def gram(rows: Tensor) -> Tensor:
    """``rows' rows`` (d, d). NumPy sees the symmetry and does half the work, which torch on a CPU does not."""
    if rows.device.type == "cpu":
        array = rows.numpy()
        return torch.from_numpy(array.T @ array)
    return torch.mm(rows.T, rows)


def eigen(symmetric: Tensor) -> Eigen:
    """Eigen-decomposition of a positive semi-definite matrix, largest first; rounding below zero is clipped."""
    values, vectors = torch.linalg.eigh(symmetric)
    return Eigen(values.flip(0).clamp_min(0), vectors.flip(1))


def cutoff(values: Tensor) -> float:
    """The eigenvalue below which a direction counts as absent."""
    return float(values.max()) * max(RELATIVE_CUTOFF, len(values) * torch.finfo(torch.float64).eps)


def whitening(decomposition: Eigen) -> Tensor:
    """W (d, r) with W W' the pseudo-inverse of the decomposed matrix, r its rank.

    Of the many such W this is the one with zeros above the diagonal, which :func:`whiten` multiplies by at half the
    price.
    """
    rank = decomposition.rank()
    scaled = decomposition.vectors[:, :rank] / decomposition.values[:rank].sqrt()
    triangular: Tensor = torch.linalg.qr(scaled.T)[1].T.contiguous()
    return triangular


def whiten(rows: Tensor, matrix: Tensor) -> Tensor:
    """``rows @ matrix`` for a matrix from :func:`whitening`; float64 ``rows`` may be overwritten."""
    if rows.device.type != "cpu" or matrix.shape[0] != matrix.shape[1] or not rows.is_contiguous():
        return torch.mm(rows, matrix)
    # BLAS reads both transposed: upper triangular times columns, in place.
    return torch.from_numpy(blas.dtrmm(1.0, matrix.numpy().T, rows.numpy().T, overwrite_b=1)).T


def nearest_squared_distance(rows: Tensor, centers: Tensor) -> Tensor:
    """Squared Euclidean distance of each row (B, r) to its nearest center (C, r), without a B x C x r tensor.

    One product gives all distances. Where the nearest is so close that the product has lost its digits, it is
    recomputed as a difference.
    """
    norms = torch.linalg.vecdot(rows, rows)
    offsets, nearest = torch.addmm((centers * centers).sum(dim=1), rows, centers.T, alpha=-2).min(dim=1)
    distances: Tensor = norms + offsets
    close = torch.nonzero(distances < _CANCELS * norms)[:, 0]
    if len(close):
        distances[close] = (rows[close] - centers[nearest[close]]).square_().sum(dim=1)
    return distances


def head_origin(weight: Tensor, bias: Tensor) -> Tensor:
    """The point u = -W^+ b (d,) at which the head gives zero logits (least squares); 0 for a zero bias."""
    if not bool(bias.any()):
        return weight.new_zeros(weight.shape[1])
    origin: Tensor = -torch.linalg.pinv(weight) @ bias
    return origin


def projection_norm(rows: Tensor, origin: Tensor, basis: Tensor) -> Tensor:
    """Norm of each row minus ``origin``, projected on the columns of ``basis`` (d, r): (B,) float64."""
    norms = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK].to(torch.float64, copy=True).sub_(origin)
        norms[start : start + CHUNK] = (part @ basis).norm(dim=1)
    return norms


def largest_cosine(rows: Tensor, center: Tensor, directions: Tensor) -> Tensor:
    """Largest cosine of each row minus ``center`` (B, d) to the unit or zero ``directions`` (C, d): (B,) float64."""
    cosines = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
    for start in range(0, len(rows), CHUNK):
        part = safe_normalize(rows[start : start + CHUNK].double() - center)
        cosines[start : start + CHUNK] = (part @ directions.T).amax(dim=1)
    return cosines.clamp_(-1, 1)
