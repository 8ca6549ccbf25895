"""Collapse class by class and pair by pair: which classes have not collapsed, which pairs are confused."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ood_nc.arrays import ArrayLike
from ood_nc.collapse._common import Center, UndefinedMetricError
from ood_nc.collapse._pairs import pair_distances
from ood_nc.collapse.frames import nearest_cosines
from ood_nc.collapse.geometry import alignment_per_class
from ood_nc.collapse.layer import Layer
from ood_nc.collapse.statistics import ClassStatistics
from ood_nc.collapse.variability import cdnv_per_class, means_resolution
from ood_nc.errors import UserError


@dataclass(frozen=True)
class ClassPair:
    """Two classes whose samples are near each other for the distance of their means.

    Attributes:
        first: index of one class, the smaller.
        second: index of the other.
        cdnv: (v_i + v_j) / (2 |mu_i - mu_j|^2), infinite where the means coincide.
        distance: |mu_i - mu_j|.

    Example:
        >>> from ood_nc.collapse import ClassPair
        >>> ClassPair(first=0, second=3, cdnv=0.5, distance=2.0).second
        3
    """

    first: int
    second: int
    cdnv: float
    distance: float


@dataclass(frozen=True)
class ClassReport:
    """The metrics of `measure` that have a value for each class; None for a class where it is undefined.

    Attributes:
        counts: samples (or the sum of their weights).
        variance: v_c, the mean squared distance to the class mean.
        mean_norm: |mu_c - mu_G|; equal for all classes under `nc2_norm` = 0.
        cdnv: mean over the other classes; the mean of these is `cdnv`.
        nearest_cosine: largest cosine of the centred mean with another class's; see `gnc2_margin`.
        alignment: cosine of the centred mean and the centred row of W; the mean of these is `nc3_alignment`.
        pairs: the pairs of largest CDNV, worst first.
        reasons: why a column is undefined for every class.

    Example:
        >>> from ood_nc.collapse import ClassStatistics, measure_classes
        >>> stats = ClassStatistics(2, 1).update([[0.0], [2.0], [5.0], [7.0]], [0, 0, 1, 1])
        >>> measure_classes(stats).variance
        (1.0, 1.0)
    """

    counts: tuple[float, ...]
    variance: tuple[float | None, ...]
    mean_norm: tuple[float | None, ...]
    cdnv: tuple[float | None, ...]
    nearest_cosine: tuple[float | None, ...]
    alignment: tuple[float | None, ...]
    pairs: tuple[ClassPair, ...]
    reasons: dict[str, str]


def measure_classes(
    stats: ClassStatistics, *, weight: ArrayLike | None = None, center: Center = "classes", pairs: int = 10
) -> ClassReport:
    """Return what `measure` averages over classes, class by class, and the most confused pairs.

    Needs O(C d) memory, so ``full=False`` statistics do.

    Args:
        stats: class statistics of a layer.
        weight: head or probe W (C, d), for the alignment.
        center: the global mean, unweighted over classes or over samples.
        pairs: how many pairs to list.

    Raises:
        UndefinedMetricError: no samples.

    Example:
        >>> from ood_nc.collapse import ClassStatistics, measure_classes
        >>> stats = ClassStatistics(2, 1).update([[0.0], [2.0], [5.0], [7.0]], [0, 0, 1, 1])
        >>> report = measure_classes(stats)
        >>> report.mean_norm, report.alignment, report.reasons["alignment"]
        ((2.5, 2.5), (None, None), 'needs weight.')
    """
    present, layer = stats.present, Layer(stats, weight=weight, center=center)
    functions = {
        "variance": lambda: stats.class_variances[present],
        "mean_norm": lambda: torch.linalg.vector_norm(stats.centered_means(center), dim=1),
        "cdnv": lambda: cdnv_per_class(stats),
        "nearest_cosine": lambda: nearest_cosines(stats, center),
        "alignment": lambda: alignment_per_class(stats, layer.weight, center),
    }
    columns: dict[str, tuple[float | None, ...]] = {}
    reasons: dict[str, str] = {}
    for name, function in functions.items():
        column: list[float | None] = [None] * stats.num_classes
        try:
            for index, value in zip(present.tolist(), function().tolist(), strict=True):
                column[index] = value
        except UndefinedMetricError as reason:
            reasons[name] = str(reason)
        columns[name] = tuple(column)
    return ClassReport(
        counts=tuple(stats.counts.tolist()), **columns, pairs=tuple(confused_pairs(stats, pairs)), reasons=reasons
    )


def confused_pairs(stats: ClassStatistics, count: int = 10) -> list[ClassPair]:
    """Return the ``count`` pairs of classes with the largest class-distance normalised variance, worst first.

    Raises:
        UndefinedMetricError: no samples.
        UserError: a negative count.

    Example:
        >>> from ood_nc.collapse import ClassStatistics, confused_pairs
        >>> stats = ClassStatistics(2, 1).update([[0.0], [2.0], [5.0], [7.0]], [0, 0, 1, 1])
        >>> confused_pairs(stats)
        [ClassPair(first=0, second=1, cdnv=0.04, distance=5.0)]
    """
    if count < 0:
        raise UserError(f"the number of pairs must not be negative, got {count}.")
    means = stats.centered_means()
    variances = stats.class_variances[stats.present]
    nothing = means_resolution(stats) ** 2
    best = torch.empty(0, 4, dtype=torch.float64, device=means.device)
    for rows, squares in pair_distances(means):
        ratio = ((variances[rows, None] + variances) / (2 * squares)).masked_fill(squares <= nothing, torch.inf)
        # Every pair comes twice; the upper triangle is kept.
        ratio = ratio.triu(rows.start + 1).where(squares.isfinite(), 0.0)
        top = ratio.flatten().topk(min(count, ratio.numel()))
        first, second = top.indices // len(means), top.indices % len(means)
        found = torch.stack([first + rows.start, second, top.values, squares.flatten()[top.indices].sqrt()], dim=1)
        found = found[second > first + rows.start]
        best = torch.cat([best, found.double()])
        best = best[best[:, 2].argsort(descending=True, stable=True)][:count]
    names = stats.present.tolist()
    return [ClassPair(names[int(i)], names[int(j)], value, distance) for i, j, value, distance in best.tolist()]
