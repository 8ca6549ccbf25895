"""What the geometry decides: nearest class mean against head (NC4), head bias, orthogonality to OOD features (NC5)."""

from __future__ import annotations

import math

import torch

from ood_nc.arrays import ArrayLike, as_labels, as_matrix, as_tensor
from ood_nc.collapse._common import UndefinedMetricError, as_bias, as_head, row_blocks
from ood_nc.collapse._pending import check_finite
from ood_nc.collapse.registry import collapse_metric
from ood_nc.collapse.statistics import ClassStatistics
from ood_nc.errors import UserError


def nearest_means(stats: ClassStatistics, features: ArrayLike) -> torch.Tensor:
    """Index (N,) of the nearest class mean (Euclidean) of each sample, among the classes that have samples.

    Products are taken in the features' precision; samples whose two nearest means that precision cannot tell apart are
    decided by float64 differences. Exact ties go to the smaller index.

    Raises:
        UserError: another number of columns, or features that are not finite.

    Example:
        >>> from ood_nc.collapse import ClassStatistics, nearest_means
        >>> stats = ClassStatistics(2, 1).update([[0.0], [2.0], [5.0], [7.0]], [0, 0, 1, 1])
        >>> nearest_means(stats, [[0.5], [9.0]]).tolist()
        [0, 1]
    """
    matrix = as_matrix(features)
    if matrix.shape[1] != stats.dim:
        raise UserError(f"features have {matrix.shape[1]} columns, the statistics were made for {stats.dim}.")
    check_finite(matrix)
    means, origin = stats.centered_means(), stats.global_mean
    relaxed = torch.get_float32_matmul_precision() != "highest"
    dtype = torch.float64 if matrix.dtype == torch.float64 or relaxed else torch.float32
    result = torch.empty(len(matrix), dtype=torch.long, device=stats.device)
    with torch.no_grad(), torch.autocast(stats.device.type, enabled=False):
        for rows in row_blocks(len(matrix), len(means) + stats.dim):
            result[rows] = _nearest(matrix[rows].to(stats.device, dtype), means, origin)
    return stats.present[result]


def _nearest(samples: torch.Tensor, means: torch.Tensor, origin: torch.Tensor) -> torch.Tensor:
    """argmin |h - mu_c|^2 = argmax h . m_c - o . m_c - |m_c|^2 / 2, m the means centred on the origin o."""
    offsets = means @ origin + means.square().sum(dim=1) / 2
    affinity = torch.addmm(-offsets.to(samples.dtype), samples, means.T.to(samples.dtype))
    best, index = affinity.max(dim=1)
    if len(means) == 1:
        return index
    margin = best - affinity.scatter_(1, index[:, None], -torch.inf).amax(dim=1)
    longest = float(torch.linalg.vector_norm(means, dim=1).max())
    scale = torch.linalg.vector_norm(samples, dim=1) * longest + float(offsets.abs().max())
    # Negated so that a product beyond the range of float32 (margin NaN or infinite) is decided in float64 as well.
    close = ~(margin > 4 * samples.shape[1] ** 0.5 * torch.finfo(samples.dtype).eps * scale)
    if bool(close.any()):
        rest = samples[close].double() - origin
        index[close] = torch.cdist(rest, means, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=1)
    return index


@collapse_metric(
    "share of samples whose nearest class mean is not the head's prediction",
    "Papyan et al. 2020",
    lambda layer: share(layer.nearest_means, layer.predictions, "predictions", equal=False),
    needs=("features", "predictions or weight"),
    memory="features",
)
def nc4_ncc(stats: ClassStatistics, features: ArrayLike, predictions: ArrayLike) -> float:
    """Share of samples whose nearest class mean differs from the head's prediction (Papyan et al., 2020); in [0, 1].

    Args:
        stats: statistics whose class means are used (those of the training split, also for held-out features).
        features: (N, d).
        predictions: the head's class of each sample (N,).

    Example:
        >>> from ood_nc.collapse import ClassStatistics, nc4_ncc
        >>> stats = ClassStatistics(2, 1).update([[0.0], [2.0], [5.0], [7.0]], [0, 0, 1, 1])
        >>> nc4_ncc(stats, [[0.5], [9.0]], predictions=[0, 0])
        0.5
    """
    return share(nearest_means(stats, features), predictions, "predictions", equal=False)


@collapse_metric(
    "share of samples whose nearest class mean is their class's",
    "Rangamani et al. 2023",
    lambda layer: share(layer.nearest_means, layer.labels, "labels", equal=True),
    collapsed="high",
    memory="features",
)
def ncc_accuracy(stats: ClassStatistics, features: ArrayLike, labels: ArrayLike) -> float:
    """Share of samples whose nearest class mean is that of their label; in [0, 1].

    Example:
        >>> from ood_nc.collapse import ClassStatistics, ncc_accuracy
        >>> stats = ClassStatistics(2, 1).update([[0.0], [2.0], [5.0], [7.0]], [0, 0, 1, 1])
        >>> ncc_accuracy(stats, [[0.5], [9.0]], labels=[0, 1])
        1.0
    """
    return share(nearest_means(stats, features), labels, "labels", equal=True)


def share(nearest: torch.Tensor, classes: ArrayLike, name: str, *, equal: bool) -> float:
    """Share of the samples whose nearest class mean is (or is not) the class given for them.

    Raises:
        UndefinedMetricError: no samples.
    """
    if not len(nearest):
        raise UndefinedMetricError("no samples.")
    agree = nearest == as_labels(classes, len(nearest), name).to(nearest.device)
    return float((agree if equal else ~agree).double().mean())


def head_predictions(features: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None) -> torch.Tensor:
    """Class (N,) that a linear head assigns: argmax of W h + b, in blocks of rows, in the precision of the features.

    In float32 at least, also under autocast; in float64 where float32 products are relaxed (TF32).

    Raises:
        UserError: shapes that do not fit.

    Example:
        >>> from ood_nc.collapse import head_predictions
        >>> head_predictions([[0.5], [9.0]], weight=[[-1.0], [1.0]], bias=[2.0, 0.0]).tolist()
        [0, 1]
    """
    matrix = as_matrix(features)
    relaxed = torch.get_float32_matmul_precision() != "highest"
    dtype = torch.float64 if matrix.dtype == torch.float64 or relaxed else torch.float32
    head = as_head(weight, matrix.shape[1]).to(matrix.device, dtype)
    offset = torch.zeros(len(head)) if bias is None else as_bias(bias, len(head))
    offset = offset.to(matrix.device, dtype)
    result = torch.empty(len(matrix), dtype=torch.long, device=matrix.device)
    with torch.autocast(matrix.device.type, enabled=False):
        for rows in row_blocks(len(matrix), len(head)):
            result[rows] = torch.addmm(offset, matrix[rows].to(dtype), head.T).argmax(dim=1)
    return result


@collapse_metric("|W mu_G + b|", "Harun et al. 2025 (code)", invariances=("rotation",))
def nc4_bias(stats: ClassStatistics, weight: ArrayLike, bias: ArrayLike | None = None) -> float:
    """|W mu_G + b|_2, what the ICML 2025 code calls NC4; no bias counts as zeros. Not invariant to a shift.

    Example:
        >>> from ood_nc.collapse import ClassStatistics, nc4_bias
        >>> stats = ClassStatistics(2, 1).update([[0.0], [2.0], [5.0], [7.0]], [0, 0, 1, 1])
        >>> nc4_bias(stats, weight=[[-1.0], [1.0]], bias=[3.5, -3.5])
        0.0
    """
    head = as_head(weight, stats.dim).to(stats.device)
    logits = head @ stats.global_mean
    if bias is not None:
        logits = logits + as_bias(bias, len(head)).to(stats.device)
    length = float(torch.linalg.vector_norm(logits))
    if not math.isfinite(length):
        raise UndefinedMetricError("the value is beyond the range of float64.")
    return length


@collapse_metric(
    "mean over classes of |cos(mu_c, mean OOD feature)|", "Ammar et al. 2024 (NECO)", invariances=("scale", "rotation")
)
def nc5_ortho(stats: ClassStatistics, ood: ArrayLike) -> float:
    """Mean over classes of |cos(mu_c, mean OOD feature)| (NC5 of NECO, Ammar et al., ICLR 2024); in [0, 1].

    Args:
        stats: statistics of ID features; their uncentred class means are used.
        ood: OOD features (N, d), or their mean (d,).

    Raises:
        UndefinedMetricError: no OOD features, or their mean or a class mean is 0.

    Example:
        >>> import torch
        >>> from ood_nc.collapse import ClassStatistics, nc5_ortho
        >>> stats = ClassStatistics(3, 3).update(torch.eye(3), [0, 1, 2])
        >>> round(nc5_ortho(stats, ood=torch.ones(5, 3)), 3)
        0.577
    """
    values = as_tensor(ood, "ood").to(stats.device)
    if values.ndim == 2 and not len(values):
        raise UndefinedMetricError("no OOD samples.")
    mean = values.double() if values.ndim == 1 else _mean(as_matrix(values, "ood"))
    if mean.shape != (stats.dim,):
        raise UserError(f"ood must have {stats.dim} columns, got {mean.shape[0]}.")
    check_finite(mean[None])
    means = stats.uncentered_means
    lengths = torch.linalg.vector_norm(means, dim=1) * torch.linalg.vector_norm(mean)
    if not bool((lengths > 0).all()):
        raise UndefinedMetricError("the mean OOD feature or a class mean is 0: it has no direction.")
    return float(((means @ mean) / lengths).abs().mean())


def _mean(rows: torch.Tensor) -> torch.Tensor:
    """Mean of the rows (d,) in float64, which all of them become block by block."""
    total = rows.new_zeros(rows.shape[1], dtype=torch.float64)
    return sum((rows[part].sum(dim=0, dtype=torch.float64) for part in row_blocks(*rows.shape)), total) / len(rows)
