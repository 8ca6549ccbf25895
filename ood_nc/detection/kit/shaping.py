"""Activation shaping: change the features before the head reads them, then take the energy of its logits.

A detector of the kind is :class:`ShapedEnergy` with one method, ``_shape``; one that prunes is a
:class:`PruningDetector` too, as those of ``detectors/ash.py`` are.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor

from ood_nc.detection.feature_base import FeatureDetector
from ood_nc.detection.kit import linalg, percentile
from ood_nc.detection.kit.parameters import Parameter, percent

PERCENTILES = (65.0, 70.0, 75.0, 80.0, 85.0, 90.0, 95.0)
"""The search space of the papers and of OpenOOD."""
MAX_EXPONENT = 500.0
"""exp of more is cut off here, so that logits times it stay finite in float64. The sum of all d activations over that
of the k largest is at most d / k, so this is reached only where more than 99.8 % of the activations are pruned."""


class ShapedEnergy(FeatureDetector):
    """Base of detectors that score the energy of the head's logits on shaped features."""

    @abstractmethod
    def _shape(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Shaped features (B, d) of a chunk of features in their dtype, and a factor (B, 1) float64 that they are to be
        multiplied by, or None; the features stay as they are."""

    def _score_rows(self, features: Tensor) -> Tensor:
        shaped, factor = self._shape(linalg.at_least_float32(features))
        products = linalg.products(shaped, self.head.weight)
        return (self.head.bias + (products if factor is None else products * factor)).logsumexp(dim=1)


class PruningDetector(FeatureDetector):
    """Base of detectors that prune each row to its largest activations.

    The k largest of d are kept, k = d - round(d percentile / 100) and at least 1 (the rule of the papers' code).
    """

    percentile = Parameter(65.0, percent, search=PERCENTILES)

    def _kept(self, features: Tensor) -> int:
        dim = features.shape[1]
        return max(1, dim - round(dim * self.percentile / 100))


def largest(features: Tensor, k: int) -> Tensor:
    """The k largest entries of each row (B, k), the smallest of them first, the others in any order."""
    if torch.compiler.is_compiling() or features.device.type != "cpu":
        return features.topk(k, dim=1).values.flip(1)
    rows, dim = percentile.as_numpy(features), features.shape[1]
    return torch.from_numpy(np.partition(rows, dim - k, axis=1)[:, dim - k :])


def pruned(features: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Each row's k largest entries in their places and zeros elsewhere, for rows without negative entries.

    Where several are equal to the k-th largest, the places left are divided among all of them: each is kept by that
    share. So neither the order of the features nor that of a selection matters, and the sum is that of the k largest.

    Returns:
        What is kept (B, d) in the features' dtype, and the share (B, d) of each entry that was kept, in [0, 1]; 0 for
        zeros, which there is nothing to keep of.

    Example:
        >>> pruned(torch.tensor([[3.0, 1.0, 1.0, 0.0]]), 2)[0]
        tensor([[3.0000, 0.5000, 0.5000, 0.0000]])
    """
    top = largest(features, k)
    smallest = top[:, :1]
    tied = features == smallest
    share = (k - (top > smallest).sum(dim=1, keepdim=True)).to(features.dtype) / tied.sum(dim=1, keepdim=True)
    shares = torch.where(tied, share.masked_fill(smallest == 0, 0.0), (features > smallest).to(features.dtype))
    return features * shares, shares


def largest_sum(features: Tensor, k: int) -> Tensor:
    """Sum of the k largest entries of each row (B, 1) float64."""
    return largest(features, k).sum(dim=1, keepdim=True, dtype=torch.float64)


def sum_ratio(features: Tensor, kept: Tensor) -> Tensor:
    """Sum of all entries of each row over the sum of those kept (B, 1) float64, for rows without negative entries.

    At least 1, and at most d / k where the k largest are kept; 1 for a row of zeros, from which nothing was pruned.

    Example:
        >>> features = torch.tensor([[3.0, 1.0]])
        >>> sum_ratio(features, largest_sum(features, 1))
        tensor([[1.3333]], dtype=torch.float64)
    """
    total = features.sum(dim=1, keepdim=True, dtype=torch.float64)
    empty = kept == 0
    # Adding in another order may leave the whole a rounding below its part.
    return (total / kept.masked_fill(empty, 1.0)).masked_fill(empty, 1.0).clamp_min(1.0)


def scaling(ratio: Tensor) -> Tensor:
    """exp of the ratio, cut off at :data:`MAX_EXPONENT`."""
    return ratio.clamp_max(MAX_EXPONENT).exp()
