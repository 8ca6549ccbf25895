"""Spectra: effective rank of the features, and alignment of class means with the next layer's weight (PABS)."""

from __future__ import annotations

import torch

from ood_nc.arrays import ArrayLike, as_tensor
from ood_nc.collapse._common import UndefinedMetricError, as_head
from ood_nc.collapse.statistics import ClassStatistics
from ood_nc.errors import UserError

_EPS = float(torch.finfo(torch.float64).eps)


def effective_rank(stats: ClassStatistics, *, centered: bool = True) -> float:
    """exp(entropy of the normalised singular values) of the feature matrix (Roy and Vetterli, 2007).

    Under exact collapse C - 1 when centred (on the sample mean), C when not. The singular values are the square roots of
    the eigenvalues of the second moment, so one below about 3e-7 of the largest (float64 products; 3e-4 of the largest
    within-class one for float32 products) counts as 0.

    Raises:
        UndefinedMetricError: no d x d scatter, or all features equal (zero, when not centred).
    """
    return ranks(stats)["centered" if centered else "uncentered"]()


def entropy_rank(values: torch.Tensor) -> float:
    """exp(entropy) of singular values (not negative), normalised to a sum of 1."""
    shares = values[values > 0] / values.sum()
    return float(torch.exp(-(shares * shares.log()).sum()))
