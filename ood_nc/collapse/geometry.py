"""Geometry of class means and classifier (NC2, NC3): equal norms, equal angles, simplex ETF, self-duality."""

from __future__ import annotations

import math

import torch

from ood_nc.arrays import ArrayLike, as_matrix
from ood_nc.collapse._common import (
    EPS,
    Center,
    UndefinedMetricError,
    as_head,
    clean_norm,
    finite,
    in_range,
    product_norm,
    row_blocks,
)
from ood_nc.collapse._pairs import DirectionSummary, summarize_directions
from ood_nc.collapse.registry import collapse_metric
from ood_nc.collapse.statistics import ClassStatistics
from ood_nc.collapse.variability import means_resolution


@collapse_metric("std / mean of |mu_c - mu_G|", "Papyan et al. 2020")
def nc2_norm(stats: ClassStatistics, center: Center = "classes") -> float:
    """Equinormness: population standard deviation over mean of |mu_c - mu_G| (Papyan et al., 2020); 0 = equal norms.

    Raises:
        UndefinedMetricError: fewer than two classes, or the class means coincide.

    Example:
        >>> import torch
        >>> from ood_nc.collapse import ClassStatistics, nc2_norm
        >>> stats = ClassStatistics(3, 3).update(torch.eye(3), [0, 1, 2])
        >>> abs(round(nc2_norm(stats), 6))
        0.0
    """
    return norm_variation(distinct_means(stats, center))


@collapse_metric(
    "mean over pairs of |cos(mu_c - mu_G, mu_k - mu_G) + 1/(C - 1)|",
    "Papyan et al. 2020",
    lambda layer: layer.directions.angle,
)
def nc2_angle(stats: ClassStatistics, center: Center = "classes") -> float:
    """Equiangularity: mean over pairs of |cos(mu_c - mu_G, mu_k - mu_G) + 1/(C - 1)| (Papyan et al., 2020).

    Raises:
        UndefinedMetricError: fewer than two classes, or a class mean equals the global mean (no direction).

    Example:
        >>> import torch
        >>> from ood_nc.collapse import ClassStatistics, nc2_angle
        >>> stats = ClassStatistics(3, 3).update(torch.eye(3), [0, 1, 2])
        >>> abs(round(nc2_angle(stats), 6))
        0.0
    """
    return direction_summary(stats, center).angle


@collapse_metric("|MM'/|MM'| - (I - 11'/C)/sqrt(C - 1)|", "Zhu et al. 2021")
def nc2_etf_means(stats: ClassStatistics, center: Center = "classes") -> float:
    """Distance of the Gram matrix of the centred class means from that of a simplex ETF; in [0, sqrt(2)].

    Raises:
        UndefinedMetricError: fewer than two classes, or the class means coincide.

    Example:
        >>> import torch
        >>> from ood_nc.collapse import ClassStatistics, nc2_etf_means
        >>> stats = ClassStatistics(3, 3).update(torch.eye(3), [0, 1, 2])
        >>> abs(round(nc2_etf_means(stats), 6))
        0.0
    """
    means = distinct_means(stats, center)
    return etf_distance(means, means)


@collapse_metric("|WW'/|WW'| - (I - 11'/C)/sqrt(C - 1)|", "Zhu et al. 2021")
def nc2_etf(weight: ArrayLike) -> float:
    """|WW'/|WW'|_F - (I - 11'/C)/sqrt(C - 1)|_F of a classifier's rows (C, d); in [0, sqrt(2)]; 0 = simplex ETF.

    Zhu et al. (NeurIPS 2021). For C > d + 1 it cannot reach 0: see `etf_floor`.

    Raises:
        UndefinedMetricError: fewer than two rows, or all zero.

    Example:
        >>> import torch
        >>> from ood_nc.collapse import nc2_etf
        >>> round(nc2_etf(torch.eye(3)), 3)
        0.606
    """
    rows = head_rows(weight)
    return etf_distance(rows, rows)


@collapse_metric("std / mean of |w_c|", "Papyan et al. 2020")
def nc2_norm_head(weight: ArrayLike) -> float:
    """`nc2_norm` of the rows of a classifier (C, d), as they are.

    Example:
        >>> import torch
        >>> from ood_nc.collapse import nc2_norm_head
        >>> round(nc2_norm_head(torch.eye(3)), 3)
        0.0
    """
    return norm_variation(head_rows(weight))


@collapse_metric(
    "mean over pairs of |cos(w_c, w_k) + 1/(C - 1)|", "Papyan et al. 2020", lambda layer: layer.head_directions.angle
)
def nc2_angle_head(weight: ArrayLike) -> float:
    """`nc2_angle` of the rows of a classifier (C, d), as they are.

    Example:
        >>> import torch
        >>> from ood_nc.collapse import nc2_angle_head
        >>> round(nc2_angle_head(torch.eye(3)), 3)
        0.5
    """
    return head_summary(weight).angle


@collapse_metric("|WM'/|WM'| - (I - 11'/C)/sqrt(C - 1)|", "Zhu et al. 2021")
def nc3_duality(stats: ClassStatistics, weight: ArrayLike, center: Center = "classes") -> float:
    """|W M'/|W M'|_F - (I - 11'/C)/sqrt(C - 1)|_F (Zhu et al., NeurIPS 2021); 0 = W and means dual and a simplex ETF.

    Raises:
        UndefinedMetricError: fewer than two classes, or W M' is 0.
        UserError: W does not have a row for every class.

    Example:
        >>> import torch
        >>> from ood_nc.collapse import ClassStatistics, nc3_duality
        >>> stats = ClassStatistics(3, 3).update(torch.eye(3), [0, 1, 2])
        >>> round(nc3_duality(stats, weight=torch.eye(3)), 3)
        0.0
    """
    means = distinct_means(stats, center)
    return etf_distance(matching_rows(stats, weight), means)


@collapse_metric("|W/|W| - M/|M||", "Papyan et al. 2020")
def nc3_papyan(stats: ClassStatistics, weight: ArrayLike, center: Center = "classes") -> float:
    """|W/|W|_F - M/|M|_F|_F (Papyan et al., 2020); in [0, 2]; 0 = self-dual.

    Raises:
        UndefinedMetricError: fewer than two classes, the class means coincide, or W is 0.

    Example:
        >>> import torch
        >>> from ood_nc.collapse import ClassStatistics, nc3_papyan
        >>> stats = ClassStatistics(3, 3).update(torch.eye(3), [0, 1, 2])
        >>> round(nc3_papyan(stats, weight=torch.eye(3)), 3)
        0.606
    """
    means = distinct_means(stats, center)
    rows = matching_rows(stats, weight)
    length = torch.linalg.vector_norm(rows)
    if not float(length):
        raise UndefinedMetricError("the weight is 0.")
    return float(torch.linalg.vector_norm(rows / length - means / torch.linalg.vector_norm(means)))


def alignment_per_class(stats: ClassStatistics, weight: ArrayLike, center: Center = "classes") -> torch.Tensor:
    """Cosine (K,) of each class's centred mean and its centred row of W: which classes are self-dual.

    Raises:
        UndefinedMetricError: a class mean equals the global mean, or a row of W the mean row.

    Example:
        >>> import torch
        >>> from ood_nc.collapse import ClassStatistics, alignment_per_class
        >>> stats = ClassStatistics(3, 3).update(torch.eye(3), [0, 1, 2])
        >>> [round(cosine, 3) for cosine in alignment_per_class(stats, torch.eye(3)).tolist()]
        [1.0, 1.0, 1.0]
    """
    means = directed_means(stats, center)
    rows = matching_rows(stats, weight)
    rounding = 16 * EPS * torch.linalg.vector_norm(rows, dim=1).max()
    rows = rows - rows.mean(dim=0)
    lengths = torch.linalg.vector_norm(rows, dim=1)
    if not bool((lengths > rounding).all()):
        raise UndefinedMetricError("a row of the weight equals the mean row: it has no direction.")
    lengths = lengths * torch.linalg.vector_norm(means, dim=1)
    return (rows * means).sum(dim=1).div(lengths)


@collapse_metric("mean cosine of w_c and mu_c - mu_G, both centred", "self-duality without an ETF", collapsed="high")
def nc3_alignment(stats: ClassStatistics, weight: ArrayLike, center: Center = "classes") -> float:
    """Mean over classes of the cosine between centred class mean and centred row of W; 1 = self-dual.

    Unlike `nc3_duality` it asks for no simplex ETF, so it can reach 1 with more classes than dimensions.

    Example:
        >>> import torch
        >>> from ood_nc.collapse import ClassStatistics, nc3_alignment
        >>> stats = ClassStatistics(3, 3).update(torch.eye(3), [0, 1, 2])
        >>> round(nc3_alignment(stats, weight=torch.eye(3)), 3)
        1.0
    """
    return float(alignment_per_class(stats, weight, center).mean())


def matching_rows(stats: ClassStatistics, weight: ArrayLike) -> torch.Tensor:
    """The rows of W (C, d) of the classes that have samples, in float64 and `in_range`, where the statistics are."""
    head = as_head(weight, stats.dim).to(stats.device)
    if len(head) != stats.num_classes:
        raise UndefinedMetricError(f"the weight has {len(head)} rows, the statistics {stats.num_classes} classes.")
    return in_range(head[stats.present])


def norm_variation(rows: torch.Tensor) -> float:
    """Population standard deviation over mean of the lengths of the rows."""
    lengths = torch.linalg.vector_norm(rows, dim=1)
    return float(lengths.std(correction=0) / lengths.mean())


def direction_summary(stats: ClassStatistics, center: Center = "classes") -> DirectionSummary:
    """What one pass over the pairs of centred class means gives; several metrics read it."""
    return summarize_directions(directed_means(stats, center))


def etf_distance(left: torch.Tensor, right: torch.Tensor) -> float:
    """|A B'/|A B'|_F - (I - 11'/K)/sqrt(K - 1)|_F for A, B (K, d), a block of rows at a time."""
    classes = len(left)
    blocks = list(row_blocks(classes, classes))
    whole = left @ right.T if len(blocks) == 1 else None
    norm = product_norm(left, right) if whole is None else clean_norm(torch.linalg.vector_norm(whole), left, right)
    if not float(norm):
        raise UndefinedMetricError("the product of weight and class means is 0.")
    scale = (classes - 1) ** -0.5
    total = 0.0
    for rows in blocks:
        product = left[rows] @ right.T if whole is None else whole
        difference = product.div_(norm).add_(scale / classes)
        difference.diagonal(rows.start).sub_(scale)
        total += float(difference.square_().sum())
    return math.sqrt(total)


def head_summary(weight: ArrayLike) -> DirectionSummary:
    """What one pass over the pairs of rows of a classifier (C, d) gives."""
    rows = head_rows(weight)
    if not bool((torch.linalg.vector_norm(rows, dim=1) > 0).all()):
        raise UndefinedMetricError("a row of the weight is 0: it has no direction.")
    return summarize_directions(rows)


def head_rows(weight: ArrayLike) -> torch.Tensor:
    """The rows of a classifier (C, d), float64 `in_range`; `UndefinedMetricError` where there is one or all are 0."""
    rows = finite(as_matrix(weight, "weight").double(), "weight")
    if len(rows) < 2:
        raise UndefinedMetricError("needs at least 2 rows of the weight.")
    if not bool(rows.any()):
        raise UndefinedMetricError("the weight is 0.")
    return in_range(rows)


def distinct_means(stats: ClassStatistics, center: Center) -> torch.Tensor:
    """Centred class means (K, d) `in_range`, or `UndefinedMetricError` where they coincide or there is only one."""
    return in_range(_distinct_means(stats, center))


def directed_means(stats: ClassStatistics, center: Center) -> torch.Tensor:
    """Centred class means (K, d) `in_range`, or `UndefinedMetricError` where one of them has no direction."""
    means = _distinct_means(stats, center)
    if bool((torch.linalg.vector_norm(means, dim=1) <= means_resolution(stats)).any()):
        raise UndefinedMetricError("a class mean equals the global mean: it has no direction.")
    return in_range(means)


def _distinct_means(stats: ClassStatistics, center: Center) -> torch.Tensor:
    means = stats.centered_means(center)
    if len(means) < 2:
        raise UndefinedMetricError("needs at least 2 classes with samples, there is 1.")
    if float(torch.linalg.vector_norm(means)) <= means_resolution(stats) * len(means) ** 0.5:
        raise UndefinedMetricError("the class means coincide.")
    return means
