"""Linear algebra the detectors share: chunked, in float64, with one stated cut-off for what counts as rank."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 8192
RELATIVE_CUTOFF = 1e-12
"""Eigenvalues of a covariance below this share of the largest count as zero."""
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
    """Rows over their Euclidean norms, in float64; a zero row stays zero.

    Very large and very small rows are scaled by their largest entry first, so no norm over- or underflows.
    """
    rows = rows.double()
    scale = rows.abs().amax(dim=1, keepdim=True)
    rows = rows / torch.where(scale > 0, scale, torch.ones_like(scale))
    unit: Tensor = rows / rows.norm(dim=1, keepdim=True).clamp_min(NORM_FLOOR)
    return unit


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
        part = rows[start : start + CHUNK].double()
        part = part - (centers if labels is None else centers[labels[start : start + CHUNK]])
        scatter += gram(part)
    return scatter


def gram(rows: Tensor) -> Tensor:
    """``rows' rows`` (d, d). NumPy sees the symmetry and does half the work, which torch on a CPU does not."""
    if rows.device.type == "cpu":
        array = rows.numpy()
        return torch.from_numpy(array.T @ array)
    return rows.T @ rows


def eigen(symmetric: Tensor) -> Eigen:
    """Eigen-decomposition of a positive semi-definite matrix, largest first; rounding below zero is clipped."""
    values, vectors = torch.linalg.eigh(symmetric)
    return Eigen(values.flip(0).clamp_min(0), vectors.flip(1))


def cutoff(values: Tensor) -> float:
    """The eigenvalue below which a direction counts as absent."""
    return float(values.max()) * max(RELATIVE_CUTOFF, len(values) * torch.finfo(torch.float64).eps)


def whitening(decomposition: Eigen) -> Tensor:
    """W (d, r) with W W' the pseudo-inverse of the decomposed matrix, r its rank."""
    rank = decomposition.rank()
    scaled: Tensor = decomposition.vectors[:, :rank] / decomposition.values[:rank].sqrt()
    return scaled


def nearest_squared_distance(rows: Tensor, centers: Tensor) -> Tensor:
    """Squared Euclidean distance of each row (B, r) to its nearest center (C, r), without a B x C x r tensor.

    The product finds the nearest center; its distance is then recomputed as a difference, so that a row close to a
    center far from the origin keeps its digits.
    """
    products = torch.addmm((centers * centers).sum(dim=1), rows, centers.T, alpha=-2)
    nearest = products.argmin(dim=1)
    return (rows - centers[nearest]).square_().sum(dim=1)


def head_origin(weight: Tensor, bias: Tensor) -> Tensor:
    """The point u = -W^+ b (d,) at which the head gives zero logits (least squares); 0 for a zero bias."""
    if not bool(bias.any()):
        return weight.new_zeros(weight.shape[1])
    return -torch.linalg.pinv(weight) @ bias


def projection_norm(rows: Tensor, origin: Tensor, basis: Tensor) -> Tensor:
    """Norm of each row minus ``origin``, projected on the columns of ``basis`` (d, r): (B,) float64."""
    norms = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK].double() - origin
        norms[start : start + CHUNK] = (part @ basis).norm(dim=1)
    return norms


def largest_cosine(rows: Tensor, center: Tensor, directions: Tensor) -> Tensor:
    """Largest cosine of each row minus ``center`` (B, d) to the unit or zero ``directions`` (C, d): (B,) float64."""
    cosines = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
    for start in range(0, len(rows), CHUNK):
        part = safe_normalize(rows[start : start + CHUNK].double() - center)
        cosines[start : start + CHUNK] = (part @ directions.T).amax(dim=1)
    return cosines.clamp_(-1, 1)
