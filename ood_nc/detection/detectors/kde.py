"""Kernel density in the principal components."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ood_nc.detection import DetectorInfo, FeatureDetector, TapStatistics, register_detector
from ood_nc.detection.kit import linalg
from ood_nc.detection.kit.densities import blocks, random_subset
from ood_nc.detection.kit.parameters import Parameter, check_not_both, positive, share, whole

DEFAULT_EXPLAINED_VARIANCE = 0.9


@register_detector
class KernelDensity(FeatureDetector):
    """Log density of a Gaussian kernel estimate in the first principal components of ID train (Parzen, 1962).

    The kernel's covariance is ``bandwidth``^2 times that of the projected features, as in Scott (1992): the components
    are whitened first. Components whose variance is below 1e-12 of the largest are left out.

    Args:
        dim: number of components, as far as there are so many of any variance.
        explained_variance: choose ``dim`` as the smallest that explains this share of the variance; None with ``dim``
            None: 0.9.
        bandwidth: None: Scott's n^(-1 / (dim + 4)), n the size of the bank.
        bank_size: samples the density is estimated from, a random subset of ID train; None: all.
        seed: of the random subset.
    """

    name = "kde"
    info = DetectorInfo(
        title="Multivariate Density Estimation: Theory, Practice, and Visualization",
        venue="Wiley 1992",
        url="https://doi.org/10.1002/9780470316849",
        needs="features",
        domain="real",
        cost="fit O(N d^2 + d^3); score O(B (d + bank_size) dim)",
    )
    requires = frozenset({"features"})

    dim = Parameter[int | None](None, whole(1).or_none())
    explained_variance = Parameter[float | None](None, share.or_none(), search=(0.5, 0.8, 0.9, 0.95))
    bandwidth = Parameter[float | None](None, positive.or_none(), search=(None, 0.05, 0.1, 0.2, 0.5, 1.0))
    bank_size = Parameter[int | None](1000, whole(1).or_none())
    seed = Parameter(0, whole(0))

    def _check_parameters(self) -> None:
        check_not_both(self, "dim", "explained_variance")

    def _fit(self, train: TapStatistics) -> None:
        decomposition = train.eigen
        wanted = self.dim
        if wanted is None:
            wanted = linalg.explaining(decomposition, self.explained_variance or DEFAULT_EXPLAINED_VARIANCE)
        dim = min(wanted, decomposition.rank())
        chosen = random_subset(len(train), self.bank_size, self.seed).to(train.device)
        size = len(chosen)
        bandwidth = size ** (-1 / (dim + 4)) if self.bandwidth is None else self.bandwidth
        deviations = bandwidth * decomposition.values[:dim].sqrt()
        self.mean_ = train.mean
        self.components_ = (decomposition.vectors[:, :dim] / deviations).contiguous()
        self.bank_ = self._project(train.features[chosen])
        self.log_scale_ = -math.log(size) - dim / 2 * math.log(2 * math.pi) - float(deviations.log().sum())
        self.dim_ = dim

    def _project(self, features: Tensor) -> Tensor:
        return linalg.by_chunks(lambda part: (part.double() - self.mean_) @ self.components_, features)

    def _score_rows(self, features: Tensor) -> Tensor:
        rows = self._project(features)
        exponents = [(-0.5 * linalg.squared_distances(rows, bank)).logsumexp(dim=1) for (bank,) in blocks(self.bank_)]
        return torch.stack(exponents, dim=1).logsumexp(dim=1) + self.log_scale_
