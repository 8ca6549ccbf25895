"""Generalised collapse: reference frames where a simplex ETF cannot exist, and uniformity on the sphere."""

from __future__ import annotations

import math

import torch

from ood_nc.arrays import ArrayLike
from ood_nc.collapse._common import Center, UndefinedMetricError
from ood_nc.collapse._pairs import DirectionSummary
from ood_nc.collapse.geometry import direction_summary, distinct_means, etf_distance, head_rows, head_summary
from ood_nc.collapse.registry import collapse_metric
from ood_nc.collapse.statistics import ClassStatistics
from ood_nc.errors import UserError


def etf_floor(num_classes: int, dim: int) -> float:
    """Smallest value that nc2_etf, nc2_etf_means and nc3_duality can take: 0 up to C = d + 1, above it positive.

    A Gram matrix of rank d has at most the share sqrt(d/(C - 1)) of the simplex ETF's, whose C - 1 eigenvalues are
    equal, so the distance is at least sqrt(2 - 2 sqrt(d/(C - 1))); any centred tight frame attains it.

    Example:
        >>> from ood_nc.collapse import etf_floor
        >>> etf_floor(num_classes=10, dim=9), round(etf_floor(num_classes=100, dim=9), 3)
        (0.0, 1.182)
    """
    if num_classes < 2 or dim < 1:
        raise UserError(f"needs at least 2 classes and 1 dimension, got {num_classes} and {dim}.")
    return math.sqrt(max(0.0, 2 - 2 * math.sqrt(min(1.0, dim / (num_classes - 1)))))


@collapse_metric("distance of M'M from a tight frame's; nc2_etf_means up to C = d + 1", "Benedetto and Fickus 2003")
def gnc2_frame(stats: ClassStatistics, center: Center = "classes") -> float:
    """Distance of the class means from a tight frame: |S/|S|_F - I/sqrt(r)|_F over the r = min(d, C - 1) directions.

    S = M'M. For C <= d + 1 it equals `nc2_etf_means`, whose reference is the simplex ETF. For C > d + 1 that cannot
    exist; the frames nearest to it are the centred tight ones, M'M proportional to I, which are the minimisers of the
    frame potential (Benedetto and Fickus, 2003), so they are the reference there. In [0, sqrt(2)], 0 = tight.

    Raises:
        UndefinedMetricError: fewer than two classes, or the class means coincide.

    Example:
        >>> import torch
        >>> from ood_nc.collapse import ClassStatistics, gnc2_frame
        >>> stats = ClassStatistics(3, 3).update(torch.eye(3), [0, 1, 2])
        >>> abs(round(gnc2_frame(stats), 6))
        0.0
    """
    return frame_distance(distinct_means(stats, center))


@collapse_metric("gnc2_frame of W", "Benedetto and Fickus 2003")
def gnc2_frame_head(weight: ArrayLike) -> float:
    """`gnc2_frame` of the rows of a classifier (C, d), as they are.

    Example:
        >>> import torch
        >>> from ood_nc.collapse import gnc2_frame_head
        >>> abs(round(gnc2_frame_head(torch.eye(3)), 3))
        0.606
    """
    return frame_distance(head_rows(weight))


def frame_distance(rows: torch.Tensor) -> float:
    """Distance of the rows (K, d) from a simplex ETF, or from a tight frame where K > d + 1."""
    classes, dim = rows.shape
    if classes <= dim + 1:
        return etf_distance(rows, rows)
    frame = rows.T @ rows
    difference = frame / torch.linalg.vector_norm(frame)
    difference.diagonal().sub_(dim**-0.5)
    return float(torch.linalg.vector_norm(difference))


def nearest_cosines(stats: ClassStatistics, center: Center = "classes") -> torch.Tensor:
    """Largest cosine (K,) of each centred class mean with another one: which classes are not separated.

    Raises:
        UndefinedMetricError: fewer than two classes, or a class mean equals the global mean.

    Example:
        >>> import torch
        >>> from ood_nc.collapse import ClassStatistics, nearest_cosines
        >>> stats = ClassStatistics(3, 3).update(torch.eye(3), [0, 1, 2])
        >>> [round(cosine, 3) for cosine in nearest_cosines(stats).tolist()]
        [-0.5, -0.5, -0.5]
    """
    return direction_summary(stats, center).closest


@collapse_metric(
    "mean largest cosine with another class, minus the best possible",
    "Jiang et al. 2024; Rankin 1955",
    lambda layer: margin_gap(layer.directions.closest, layer.stats.dim),
)
def gnc2_margin(stats: ClassStatistics, center: Center = "classes") -> float:
    """Mean over classes of the largest cosine with another class, minus the best possible; 0 = optimal.

    The largest cosine of C unit vectors in d dimensions is at least -1/(C - 1) (simplex ETF, C <= d + 1) and 0
    (orthoplex, d + 1 < C <= 2d) by Rankin (1955). Beyond 2d no closed form is known: 0 is subtracted there too, and the
    value stays above 0. The frame that minimises the largest cosine is the one of generalised neural collapse (Jiang et
    al., ICML 2024).

    Raises:
        UndefinedMetricError: fewer than two classes, or a class mean equals the global mean.

    Example:
        >>> import torch
        >>> from ood_nc.collapse import ClassStatistics, gnc2_margin
        >>> stats = ClassStatistics(3, 3).update(torch.eye(3), [0, 1, 2])
        >>> abs(round(gnc2_margin(stats), 6))
        0.0
    """
    return margin_gap(nearest_cosines(stats, center), stats.dim)


@collapse_metric(
    "gnc2_margin of W",
    "Jiang et al. 2024; Rankin 1955",
    lambda layer: margin_gap(layer.head_directions.closest, layer.stats.dim),
)
def gnc2_margin_head(weight: ArrayLike) -> float:
    """`gnc2_margin` of the rows of a classifier (C, d), as they are.

    Example:
        >>> import torch
        >>> from ood_nc.collapse import gnc2_margin_head
        >>> abs(round(gnc2_margin_head(torch.eye(3)), 3))
        0.5
    """
    summary = head_summary(weight)
    return margin_gap(summary.closest, head_rows(weight).shape[1])


def margin_gap(closest: torch.Tensor, dim: int) -> float:
    """Mean of the largest cosines (K,) minus Rankin's bound for K directions in ``dim`` dimensions."""
    best = -1 / (len(closest) - 1) if len(closest) <= dim + 1 else 0.0
    return float(closest.mean()) - best


@collapse_metric(
    "std / mean of the log distances of the mean directions",
    "Wu and Papyan 2024",
    lambda layer: log_variation(layer.directions),
)
def gnc2_uniformity(stats: ClassStatistics, center: Center = "classes") -> float:
    """Variation over pairs of the log distance between directions: std / |mean| of log |m_c - m_k|, m = M normalised.

    Hyperspherical uniformity as measured for language models by Wu and Papyan (NeurIPS 2024), logarithmic kernel; 0 for
    a simplex ETF, and meaningful for any number of classes.

    Raises:
        UndefinedMetricError: fewer than three classes, two means of the same direction, or without any.

    Example:
        >>> import torch
        >>> from ood_nc.collapse import ClassStatistics, gnc2_uniformity
        >>> stats = ClassStatistics(3, 3).update(torch.eye(3), [0, 1, 2])
        >>> abs(round(gnc2_uniformity(stats), 6))
        0.0
    """
    return log_variation(direction_summary(stats, center))


@collapse_metric("gnc2_uniformity of W", "Wu and Papyan 2024", lambda layer: log_variation(layer.head_directions))
def gnc2_uniformity_head(weight: ArrayLike) -> float:
    """`gnc2_uniformity` of the rows of a classifier (C, d), as they are.

    Example:
        >>> import torch
        >>> from ood_nc.collapse import gnc2_uniformity_head
        >>> abs(round(gnc2_uniformity_head(torch.eye(3)), 3))
        0.0
    """
    return log_variation(head_summary(weight))


def log_variation(summary: DirectionSummary) -> float:
    """Standard deviation over |mean| of the log distances of a summary."""
    if len(summary.closest) < 3:
        raise UndefinedMetricError("needs at least 3 classes with samples: two have a single distance.")
    if not math.isfinite(summary.log_mean):
        raise UndefinedMetricError("two class means have the same direction.")
    if abs(summary.log_mean) < 1e-12:
        raise UndefinedMetricError("the mean log distance is 0.")
    return summary.log_spread / abs(summary.log_mean)


@collapse_metric(
    "log mean exp(-2 |m_c - m_k|^2) of the mean directions",
    "Wang and Isola 2020",
    lambda layer: layer.directions.potential,
)
def uniformity(stats: ClassStatistics, center: Center = "classes") -> float:
    """log of the mean over pairs of exp(-2 |m_c - m_k|^2), m = M normalised (Wang and Isola, ICML 2020).

    Lower is more uniform; a simplex ETF gives the minimum, -4 C/(C - 1).

    Raises:
        UndefinedMetricError: fewer than two classes, or a class mean equals the global mean.

    Example:
        >>> import torch
        >>> from ood_nc.collapse import ClassStatistics, uniformity
        >>> stats = ClassStatistics(3, 3).update(torch.eye(3), [0, 1, 2])
        >>> round(uniformity(stats), 3)
        -6.0
    """
    return direction_summary(stats, center).potential


@collapse_metric("uniformity of W", "Wang and Isola 2020", lambda layer: layer.head_directions.potential)
def uniformity_head(weight: ArrayLike) -> float:
    """`uniformity` of the rows of a classifier (C, d), as they are.

    Example:
        >>> import torch
        >>> from ood_nc.collapse import uniformity_head
        >>> round(uniformity_head(torch.eye(3)), 3)
        -4.0
    """
    return head_summary(weight).potential
