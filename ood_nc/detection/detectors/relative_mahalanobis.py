"""Mahalanobis distance to the nearest class mean, relative to that of the background."""

from __future__ import annotations

import torch
from torch import Tensor

from ood_nc.detection import DetectorInfo, FeatureDetector, TapStatistics, register_detector
from ood_nc.detection.kit import linalg
from ood_nc.detection.kit.whitening import whitened_distance

_ROUNDING = 1e-6
"""A bound of the rounding of the difference, in units of the variance within classes, that is left as it is."""


@register_detector
class RelativeMahalanobis(FeatureDetector):
    """Minus the smallest squared Mahalanobis distance to a class mean, less that to the mean of all (Ren et al., 2021).

    - min_c [(h - mu_c)' S^+ (h - mu_c) - (h - mu)' S_0^+ (h - mu)]: S the covariance around the own
    class mean, tied over classes, S_0 the covariance of all samples around their mean mu, both over N. The
    pseudo-inverses drop directions whose variance is below 1e-12 of the largest; ``rank_`` and ``background_rank_``
    say how many remain.
    """

    name = "relative_mahalanobis"
    info = DetectorInfo(
        title="A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection",
        venue="ICML 2021 workshop on uncertainty and robustness in deep learning",
        url="https://arxiv.org/abs/2106.09022",
        needs="features and ID train labels",
        domain="real",
        cost="fit O(N d^2 + d^3); score O(B d C), or O(B d (d + C)) where S is near to singular or C above d / 2",
    )
    requires = frozenset({"features", "labels"})

    def _fit(self, train: TapStatistics) -> None:
        whitening = train.within_whitening
        self.rank_ = whitening.shape[1]
        self.background_mean_ = train.mean
        cancelled = self._cancelled(train, whitening)
        self.directions_ = None if cancelled is None else cancelled[0]
        if cancelled is not None:
            self.lengths_, self.background_rank_ = cancelled[1], self.rank_
            return
        self.mean_ = train.global_mean
        self.whitening_ = whitening
        self.whitened_means_ = (train.class_means - self.mean_) @ whitening
        self.background_whitening_ = train.total_whitening
        self.background_rank_ = self.background_whitening_.shape[1]

    def _cancelled(self, train: TapStatistics, whitening: Tensor) -> tuple[Tensor, Tensor] | None:
        """Directions (d, 2 K) of the difference, and squared lengths (K,), where S is regular and classes are few.

        S_0 is S and the K class means, so by Woodbury's identity the two distances differ in as many directions: what
        all others give to either cancels, and need not be computed.
        """
        dim, means = train.dim, (train.class_means - train.mean) @ whitening
        lengths = torch.linalg.vecdot(means, means)
        spread = float(whitening.square().sum() * train.covariance.trace())
        rounding = spread**0.5 * float(lengths.max()) * torch.finfo(torch.float64).eps
        if self.rank_ < dim or 2 * len(means) > dim or spread * linalg.RELATIVE_CUTOFF > 1 or rounding > _ROUNDING:
            return None
        scaled = means * (train.class_counts.double() / len(train)).sqrt()[:, None]
        factor = torch.linalg.cholesky(scaled @ scaled.T + torch.eye(len(scaled)).to(scaled))
        between = torch.linalg.solve_triangular(factor, scaled, upper=False)
        return whitening @ torch.cat([means, between]).T, lengths

    def _score_rows(self, features: Tensor) -> Tensor:
        # Most of the two distances cancels: in float64 whatever the features.
        wide = features.double()
        if self.directions_ is not None:
            classes, between = ((wide - self.background_mean_) @ self.directions_).tensor_split(2, dim=1)
            nearest: Tensor = (2 * classes - self.lengths_).amax(dim=1)
            return nearest - between.square().sum(dim=1)
        background = self.background_whitening_
        center = background.new_zeros(1, background.shape[1])
        relative: Tensor = whitened_distance(wide, self.background_mean_, background, center)
        return relative - whitened_distance(wide, self.mean_, self.whitening_, self.whitened_means_)
