"""What the geometry decides: nearest class mean against the head (NC4), bias, and orthogonality to OOD features (NC5)."""

from __future__ import annotations

import torch

from ood_nc.arrays import ArrayLike, as_labels, as_matrix, as_tensor
from ood_nc.collapse._common import UndefinedMetricError, as_head, row_blocks
from ood_nc.collapse.statistics import ClassStatistics
from ood_nc.errors import UserError


def nearest_means(stats: ClassStatistics, features: ArrayLike) -> torch.Tensor:
    """Index (N,) of the nearest class mean (Euclidean) of each sample, among the classes that have samples.

    Samples and means are centred on the global mean first. Products are taken in the features' precision; samples whose
    two nearest means that precision cannot tell apart are decided in float64. Exact ties go to the smaller index.
    """
    matrix = as_matrix(features)
    if matrix.shape[1] != stats.dim:
        raise UserError(f"features have {matrix.shape[1]} columns, the statistics were made for {stats.dim}.")
    means, origin, present = stats.centered_means(), stats.global_mean, stats.present
    relaxed = torch.get_float32_matmul_precision() != "highest"
    dtype = torch.float64 if matrix.dtype == torch.float64 or relaxed else torch.float32
    result = torch.empty(len(matrix), dtype=torch.long, device=stats.device)
    with torch.no_grad(), torch.autocast(stats.device.type, enabled=False):
        for rows in row_blocks(len(matrix), len(means) + 2 * stats.dim):
            result[rows] = _nearest(matrix[rows].to(stats.device).double() - origin, means, dtype)
    return present[result]


def _nearest(samples: torch.Tensor, means: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    half_squares = means.square().sum(dim=1) / 2
    affinity = torch.addmm(-half_squares.to(dtype), samples.to(dtype), means.T.to(dtype))
    if len(means) == 1:
        return affinity.argmax(dim=1)
    top = affinity.topk(2, dim=1)
    scale = torch.linalg.vector_norm(samples, dim=1) * (2 * half_squares.max()).sqrt() + half_squares.max()
    tolerance = samples.shape[1] ** 0.5 * 4 * torch.finfo(dtype).eps * scale
    close = (top.values[:, 0] - top.values[:, 1]).double() <= tolerance
    best = top.indices[:, 0]
    if bool(close.any()):
        distances = torch.cdist(samples[close], means, compute_mode="donot_use_mm_for_euclid_dist")
        best[close] = distances.argmin(dim=1)
    return best


def nc4_ncc(stats: ClassStatistics, features: ArrayLike, predictions: ArrayLike) -> float:
    """Share of samples whose nearest class mean differs from the head's prediction (Papyan et al., 2020); in [0, 1].

    Args:
        stats: statistics whose class means are used (those of the training split, also for held-out features).
        features: (N, d).
        predictions: the head's class of each sample (N,).
    """
    nearest = nearest_means(stats, features)
    predicted = as_labels(predictions, len(nearest), "predictions").to(nearest.device)
    _require_rows(len(nearest))
    return float((nearest != predicted).double().mean())


def ncc_accuracy(stats: ClassStatistics, features: ArrayLike, labels: ArrayLike) -> float:
    """Share of samples whose nearest class mean is that of their label; in [0, 1]."""
    nearest = nearest_means(stats, features)
    truth = as_labels(labels, len(nearest)).to(nearest.device)
    _require_rows(len(nearest))
    return float((nearest == truth).double().mean())


def nc4_bias(stats: ClassStatistics, weight: ArrayLike, bias: ArrayLike | None = None) -> float:
    """|W mu_G + b|_2, what the ICML 2025 code calls NC4; no bias counts as zeros. Not invariant to a shift."""
    head = as_head(weight, stats.dim).to(stats.device)
    logits = head @ stats.global_mean
    if bias is not None:
        offset = as_tensor(bias, "bias").to(stats.device).double()
        if offset.shape != logits.shape:
            raise UserError(f"bias must have shape ({len(logits)},), got {tuple(offset.shape)}.")
        logits = logits + offset
    return float(torch.linalg.vector_norm(logits))


def nc5_ortho(stats: ClassStatistics, ood: ArrayLike) -> float:
    """Mean over classes of |cos(mu_c, mean OOD feature)| (NC5 of NECO, Ammar et al., ICLR 2024); in [0, 1].

    Args:
        stats: statistics of ID features; their uncentred class means are used.
        ood: OOD features (N, d), or their mean (d,).

    Raises:
        UndefinedMetricError: the mean OOD feature or a class mean is 0.
    """
    values = as_tensor(ood, "ood").to(stats.device)
    mean = values.double() if values.ndim == 1 else as_matrix(values, "ood").mean(dim=0, dtype=torch.float64)
    if mean.shape != (stats.dim,):
        raise UserError(f"ood must have {stats.dim} columns, got {mean.shape[0]}.")
    means = stats.uncentered_means
    lengths = torch.linalg.vector_norm(means, dim=1) * torch.linalg.vector_norm(mean)
    if not bool((lengths > 0).all()):
        raise UndefinedMetricError("the mean OOD feature or a class mean is 0: it has no direction.")
    return float(((means @ mean) / lengths).abs().mean())


def _require_rows(rows: int) -> None:
    if not rows:
        raise UndefinedMetricError("no samples.")
