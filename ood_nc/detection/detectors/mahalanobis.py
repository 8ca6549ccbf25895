"""Mahalanobis distance to the nearest class mean."""

from __future__ import annotations

import torch
from torch import Tensor

from ood_nc.detection import DetectorInfo, FeatureDetector, TapMoments, TapQueries, TapStatistics, register_detector
from ood_nc.detection.kit import linalg, scatter
from ood_nc.detection.kit.parameters import Parameter, flag
from ood_nc.detection.kit.whitening import whitened_distance


@register_detector
class Mahalanobis(FeatureDetector):
    """Minus the smallest squared Mahalanobis distance to a class mean (Lee et al., NeurIPS 2018, equation 2).

    - min_c (h - mu_c)' S^+ (h - mu_c), S the covariance around the own class mean, tied over classes, over N. The
    pseudo-inverse drops directions whose variance is below 1e-12 of the largest, so dead and duplicated features do no
    harm; ``rank_`` says how many remain.

    Args:
        normalize: L2-normalise the features first (Mueller & Hein, 2025).
    """

    name = "mahalanobis"
    info = DetectorInfo(
        title="A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks",
        venue="NeurIPS 2018",
        url="https://arxiv.org/abs/1807.03888",
        needs="features and ID train labels",
        domain="(-inf, 0]",
        cost="fit O(N d^2 + d^3); score O(B d (d + C))",
    )
    requires = frozenset({"features", "labels"})

    normalize = Parameter(False, flag, search=(False, True))

    def _fit(self, train: TapStatistics) -> None:
        if self.normalize:
            train = _of_units(train)
        self.mean_ = train.global_mean
        self.whitening_ = train.within_whitening
        self.whitened_means_ = (train.class_means - self.mean_) @ self.whitening_
        self.rank_ = self.whitening_.shape[1]

    def _score(self, queries: TapQueries) -> Tensor:
        def distance(features: Tensor) -> Tensor:
            return whitened_distance(features, self.mean_, self.whitening_, self.whitened_means_)

        if not self.normalize:
            return -distance(queries.features)
        return -linalg.by_chunks(lambda part: distance(linalg.safe_normalize(part)), queries.features)


def _of_units(train: TapStatistics) -> TapMoments:
    """Of the normalised features, which are made a chunk at a time: all of them in float64 may be too many."""
    means = torch.zeros(len(train.classes), train.dim, dtype=torch.float64, device=train.device)
    for rows, positions in linalg.chunks(train.features, train.class_positions):
        means.index_add_(0, positions, linalg.safe_normalize(rows))
    means /= train.class_counts[:, None]
    parts = linalg.chunks(train.features, train.class_positions)
    within = scatter.sum_of_grams(linalg.safe_normalize(rows).sub_(means[own]) for rows, own in parts) / len(train)
    return TapMoments(train.classes, train.class_counts, means, within)
