"""Mahalanobis distance to the nearest class mean, relative to that of the background."""

from __future__ import annotations

from torch import Tensor

from ood_nc.detection import DetectorInfo, FeatureDetector, TapStatistics, register_detector
from ood_nc.detection.kit.whitening import whitened_distance


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
        cost="fit O(N d^2 + d^3); score O(B d (d + C))",
    )
    requires = frozenset({"features", "labels"})

    def _fit(self, train: TapStatistics) -> None:
        self.mean_ = train.global_mean
        self.whitening_ = train.within_whitening
        self.whitened_means_ = (train.class_means - self.mean_) @ self.whitening_
        self.background_mean_ = train.mean
        self.background_whitening_ = train.total_whitening
        self.rank_ = self.whitening_.shape[1]
        self.background_rank_ = self.background_whitening_.shape[1]

    def _score_rows(self, features: Tensor) -> Tensor:
        # Most of the two distances cancels: in float64 whatever the features.
        wide, background = features.double(), self.background_whitening_
        center = background.new_zeros(1, background.shape[1])
        relative: Tensor = whitened_distance(wide, self.background_mean_, background, center)
        return relative - whitened_distance(wide, self.mean_, self.whitening_, self.whitened_means_)
