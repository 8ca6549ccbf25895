"""Collapse under class imbalance: minority collapse, and the geometry that imbalanced training tends to."""

from __future__ import annotations

import torch

from ood_nc.arrays import ArrayLike
from ood_nc.collapse._common import EPS, UndefinedMetricError
from ood_nc.collapse.geometry import matching_rows
from ood_nc.collapse.registry import collapse_metric
from ood_nc.collapse.statistics import ClassStatistics


def minority_classes(stats: ClassStatistics, share: float = 0.5) -> torch.Tensor:
    """Indices of the classes with some samples but fewer than ``share`` of the mean number of samples a class.

    Raises:
        UndefinedMetricError: no samples.

    Example:
        >>> import torch
        >>> from ood_nc.collapse import ClassStatistics, minority_classes
        >>> stats = ClassStatistics(3, 3).update(torch.eye(3), [0, 1, 2], weights=[8.0, 1.0, 1.0])
        >>> minority_classes(stats).tolist()
        [1, 2]
    """
    counts = stats.counts
    present = stats.present
    if not len(present):
        raise UndefinedMetricError("no samples.")
    return present[counts[present] < share * counts[present].mean()]


@collapse_metric("mean cosine of the minority classes' rows of W", "Fang et al. 2021", collapsed="high")
def minority_collapse(stats: ClassStatistics, weight: ArrayLike, share: float = 0.5) -> float:
    """Mean cosine between the rows of W of the minority classes (Fang, He, Long, Su, PNAS 2021); 1 = fully merged.

    Training on imbalanced classes draws the minority classes' rows together, up to cosine 1; a simplex ETF has
    -1/(C - 1). Minority classes are those of `minority_classes`.

    Raises:
        UndefinedMetricError: fewer than two minority classes, or a row of theirs is 0.

    Example:
        >>> import torch
        >>> from ood_nc.collapse import ClassStatistics, minority_collapse
        >>> stats = ClassStatistics(3, 3).update(torch.eye(3), [0, 1, 2], weights=[8.0, 1.0, 1.0])
        >>> round(minority_collapse(stats, weight=[[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 2.0, 2.0]]), 6)
        1.0
    """
    minority = minority_classes(stats, share)
    found = len(minority)
    if found < 2:
        raise UndefinedMetricError(
            f"needs 2 classes with fewer than {share:g} of the mean number of samples a class, there are {found}."
        )
    rows = matching_rows(stats, weight)[torch.isin(stats.present, minority)]
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    if not bool((lengths > 0).all()):
        raise UndefinedMetricError("a minority row of the weight is 0: it has no direction.")
    directions = rows / lengths
    count = len(rows)
    return float((directions.sum(dim=0).square().sum() - count) / (count * (count - 1)))


@collapse_metric("distance of WW' from the imbalanced optimum's", "Thrampoulidis et al. 2022", memory="O(C d + C^2)")
def nc2_seli(stats: ClassStatistics, weight: ArrayLike) -> float:
    """|WW'/|WW'|_F - G/|G|_F|_F, G the Gram matrix of simplex-encoded-labels interpolation for these class sizes.

    Thrampoulidis et al. (NeurIPS 2022): with (I - 11'/C) diag(sqrt(n)) = V L U', the classifier of the unconstrained
    features model tends to G = V L V'. With balanced classes G is the simplex ETF and the value that of `nc2_etf`;
    under imbalance it tells apart a classifier that has converged to the imbalanced optimum from one that has not.

    Raises:
        UndefinedMetricError: fewer than two classes, or W is 0.

    Example:
        >>> import torch
        >>> from ood_nc.collapse import ClassStatistics, nc2_seli
        >>> stats = ClassStatistics(3, 3).update(torch.eye(3), [0, 1, 2])
        >>> round(nc2_seli(stats, weight=torch.eye(3) - 1 / 3), 6)
        0.0
    """
    rows = matching_rows(stats, weight)
    classes = len(rows)
    if classes < 2:
        raise UndefinedMetricError("needs at least 2 classes with samples, there is 1." if classes else "no samples.")
    gram = rows @ rows.T
    if not bool(gram.any()):
        raise UndefinedMetricError("the weight is 0.")
    encoded = torch.eye(classes, dtype=torch.float64, device=rows.device) - 1 / classes
    # V L V' is the square root of (V L U')(V L U')'.
    squares, vectors = torch.linalg.eigh((encoded * stats.counts[stats.present]) @ encoded)
    lengths = squares.where(squares > classes * EPS * squares[-1], 0.0).sqrt()
    ideal = (vectors * lengths) @ vectors.T
    return float(
        torch.linalg.vector_norm(gram / torch.linalg.vector_norm(gram) - ideal / torch.linalg.vector_norm(ideal))
    )
