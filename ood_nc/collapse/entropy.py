"""Nearest-neighbour (Kozachenko-Leonenko) entropy of features: the quantity that the entropy loss raises."""

from __future__ import annotations

import math

import torch

from ood_nc.arrays import ArrayLike, as_matrix
from ood_nc.collapse._common import UndefinedMetricError, row_blocks
from ood_nc.collapse._pending import check_finite
from ood_nc.collapse.registry import collapse_metric
from ood_nc.errors import UserError

_EPS = 1e-8


@collapse_metric(
    "mean log nearest-neighbour distance on the unit sphere",
    "Kozachenko and Leonenko 1987",
    lambda layer: _mean_log_distance(_subset(layer.features, layer.entropy_samples, layer.seed)),
    invariances=("scale", "rotation"),
    memory="features",
)
def entropy_nn(features: ArrayLike, *, max_samples: int | None = None, seed: int = 0) -> float:
    """Mean log distance to the nearest neighbour on the unit sphere, minus the entropy loss of method.md.

    mean_i log(|e_i - e_j(i) + eps| + eps) with e = h / max(|h|, eps), eps = 1e-8. It falls as the number of
    samples grows and rises with the dimension, so only values of equal N and d compare. Computed in float64.

    Args:
        features: (N, d).
        max_samples: take a random subset of this size when there are more rows, to fix N and bound the N^2 search.
        seed: of the subset.

    Raises:
        UndefinedMetricError: fewer than two samples.
        UserError: ``max_samples`` below 2, or features that are not finite.

    Example:
        >>> from ood_nc.collapse import entropy_nn
        >>> round(entropy_nn([[1.0, 0.0], [-3.0, 0.0]]), 3)  # the log of the distance of two opposite points
        0.693
    """
    return _mean_log_distance(_subset(features, max_samples, seed))


def entropy_full(
    features: ArrayLike, *, on_sphere: bool = True, max_samples: int | None = None, seed: int = 0
) -> float:
    """Differential entropy in nats, D * mean log rho + log V_D + psi(N) - psi(1), V_D the volume of the unit ball.

    Kozachenko and Leonenko (1987). On the sphere the features are normalised, rho is the chord to the nearest neighbour
    and D = d - 1 (the uniform distribution reaches the log area of the sphere); otherwise D = d.

    Args:
        features: (N, d).
        on_sphere: normalise the features to unit length.
        max_samples: take a random subset of this size when there are more rows.
        seed: of the subset.

    Raises:
        UndefinedMetricError: fewer than two samples, or two equal ones (the estimate is minus infinity).
        UserError: ``max_samples`` below 2, or features that are not finite.

    Example:
        >>> import torch
        >>> from ood_nc.collapse import entropy_full
        >>> uniform = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0))
        >>> abs(entropy_full(uniform, on_sphere=False)) < 0.1  # 0 nats on the unit square
        True
    """
    points = _subset(features, max_samples, seed)
    if on_sphere:
        points = _on_sphere(points)
    dim = points.shape[1] - 1 if on_sphere else points.shape[1]
    rho = torch.linalg.vector_norm(points - points[_neighbors(points)], dim=1)
    if not bool((rho > 0).all()):
        raise UndefinedMetricError("two samples are equal: the entropy estimate is minus infinity.")
    log_volume = dim / 2 * math.log(math.pi) - math.lgamma(dim / 2 + 1)
    count = torch.tensor(float(len(points)), dtype=torch.float64)
    digamma = float(torch.digamma(count) - torch.digamma(torch.ones_like(count)))
    return float(dim * rho.log().mean()) + log_volume + digamma


def _on_sphere(points: torch.Tensor) -> torch.Tensor:
    return torch.div(points, torch.linalg.vector_norm(points, dim=1, keepdim=True).clamp_min(_EPS))


def _mean_log_distance(points: torch.Tensor) -> float:
    points = _on_sphere(points)
    difference = points - points[_neighbors(points)] + _EPS
    return float((torch.linalg.vector_norm(difference, dim=1) + _EPS).log().mean())


def _subset(features: ArrayLike, max_samples: int | None, seed: int) -> torch.Tensor:
    """At most so many of the rows, in float64."""
    matrix = as_matrix(features)
    if max_samples is not None and max_samples < 2:
        raise UserError(f"max_samples must be at least 2, got {max_samples}: a nearest neighbour needs another sample.")
    check_finite(matrix)
    if len(matrix) < 2:
        raise UndefinedMetricError(f"needs at least 2 samples, got {len(matrix)}.")
    if max_samples is not None and len(matrix) > max_samples:
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(matrix), generator=generator)[:max_samples].sort().values
        matrix = matrix[chosen.to(matrix.device)]
    return matrix.double()


def _neighbors(points: torch.Tensor) -> torch.Tensor:
    """Index of the nearest other row, by centred products in float64."""
    centered = points - points.mean(dim=0)
    half_squares = centered.square().sum(dim=1) / 2
    result = torch.empty(len(points), dtype=torch.long, device=points.device)
    with torch.autocast(points.device.type, enabled=False):
        for rows in row_blocks(len(points), len(points)):
            affinity = torch.addmm(-half_squares, centered[rows], centered.T)
            affinity.diagonal(rows.start).fill_(-torch.inf)
            result[rows] = affinity.argmax(dim=1)
    return result
