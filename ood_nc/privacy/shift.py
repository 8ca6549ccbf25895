"""Feature shift: how far features are from a simplex ETF, the beta of the theory of private last-layer training."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from ood_nc.arrays import ArrayLike, as_labels, as_matrix
from ood_nc.collapse import ClassStatistics
from ood_nc.errors import UserError


class ShiftSummary(NamedTuple):
    """The largest value over samples, the one that 95 % stay below, and the median."""

    max: float
    q95: float
    median: float


class FeatureShift(NamedTuple):
    """Distances of features from their vertex of the nearest simplex ETF.

    Attributes:
        sup: in the largest coordinate, beta; it depends on the basis of the features.
        euclidean: in the 2-norm, which does not.
    """

    sup: ShiftSummary
    euclidean: ShiftSummary


def feature_shift(features: ArrayLike, labels: ArrayLike) -> FeatureShift:
    """Return |x - M_y| over samples: x the feature less the mean of all, at unit norm; M the nearest simplex ETF.

    M = sqrt(K/(K-1)) Q (I - 11'/K), Q orthonormal: the polar factor of the centred class means of x (orthogonal
    Procrustes). Without the centring the mean alone would set the value. (Feature shift: Wang, Zhu, Su, Wang 2024.)

    Args:
        features: (N, d), d >= K - 1.
        labels: (N,); every class 0 to K - 1 needs a sample.

    Raises:
        UserError: fewer than two classes, one without samples, or too narrow features.

    Example:
        >>> from ood_nc.privacy import feature_shift
        >>> feature_shift([[3.0, 0.0], [5.0, 0.0], [4.0, 0.5], [4.0, -0.5]], [0, 1, 0, 1]).sup.median < 1
        True
    """
    x = as_matrix(features).double()
    y = as_labels(labels, len(x)).to(x.device)
    classes, dim = int(y.max()) + 1, x.shape[1]
    if classes < 2 or len(y.unique()) < classes or dim < classes - 1:
        raise UserError(
            f"A simplex ETF needs at least 2 classes with samples and d >= K - 1, got K {classes}, d {dim}."
        )
    x = torch.nn.functional.normalize(x - x.mean(dim=0), dim=1)
    means = ClassStatistics(classes, dim, device=x.device).update(x, y).means.to(x)
    left, _, right = torch.linalg.svd(means - means.mean(dim=0), full_matrices=False)
    rank = classes - 1
    # Centred means have rank K - 1 at most: the last singular vectors are arbitrary, and I - 11'/K removes them.
    etf = math.sqrt(classes / rank) * left[:, :rank] @ right[:rank]
    gap = x - etf[y]
    return FeatureShift(_summary(gap.abs().amax(dim=1)), _summary(gap.norm(dim=1)))


def _summary(values: torch.Tensor) -> ShiftSummary:
    levels = torch.quantile(values, torch.tensor([0.95, 0.5], dtype=values.dtype, device=values.device))
    return ShiftSummary(float(values.max()), *levels.tolist())
