"""Cluster-conditional Mahalanobis distance of normalised features."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ood_nc.detection import DetectorInfo, FeatureDetector, MissingInputError, TapStatistics, register_detector
from ood_nc.detection.kit import linalg
from ood_nc.detection.kit.densities import moments_of
from ood_nc.detection.kit.parameters import Parameter, whole
from ood_nc.detection.kit.whitening import square_whitening, whitened_distances
from ood_nc.errors import UserError


@register_detector
class SelfSupervisedDetector(FeatureDetector):
    """Minus the smallest squared Mahalanobis distance to a cluster of normalised features (Sehwag et al., ICLR 2021).

    - min_m (z - mu_m)' S_m^+ (z - mu_m), z = h / |h|: every cluster has its own covariance, over its own
    samples. The pseudo-inverse drops directions whose variance is below 1e-12 of the cluster's largest.

    Args:
        clusters: number of k-means clusters; 1, the paper's choice, needs no labels. None: the classes.
        seed: of k-means.
    """

    name = "ssd"
    info = DetectorInfo(
        title="SSD: A Unified Framework for Self-Supervised Outlier Detection",
        venue="ICLR 2021",
        url="https://arxiv.org/abs/2103.12051",
        needs="features (and ID train labels where the clusters are the classes)",
        domain="(-inf, 0]",
        cost="fit O(N d^2 + clusters d^3); score O(B clusters d^2)",
    )
    requires = frozenset({"features"})

    clusters = Parameter[int | None](1, whole(1).or_none(), search=(1, 2, 5, 10))
    seed = Parameter(0, whole(0))

    def _fit(self, train: TapStatistics) -> None:
        means, whitenings = [], []
        for rows in self._members(train):
            mean, covariance = moments_of(rows, linalg.safe_normalize)
            means.append(mean)
            whitenings.append(square_whitening(covariance))
        self.means_ = torch.stack(means)
        self.whitenings_ = torch.stack(whitenings)

    def _members(self, train: TapStatistics) -> Iterable[Tensor]:
        """The features of each cluster, one after the other."""
        if self.clusters == 1:
            return [train.features]
        if self.clusters is None:
            if "labels" not in train.available:
                raise MissingInputError(self.name, {"labels"}, self.requires | {"labels"}, "fit")
            positions = train.class_positions
        else:
            if self.clusters > len(train):
                raise UserError(f"Detector 'ssd': {self.clusters} clusters are more than the {len(train)} samples.")
            from sklearn.cluster import KMeans  # brings half of scikit-learn along

            units = linalg.by_chunks(lambda part: linalg.safe_normalize(part).float(), train.features)
            found = KMeans(self.clusters, n_init=1, random_state=self.seed).fit_predict(units.cpu().numpy())
            positions = torch.from_numpy(found).long().to(train.device)
        return (train.features[positions == cluster] for cluster in positions.unique().tolist())

    def _score_rows(self, features: Tensor) -> Tensor:
        units = linalg.safe_normalize(features)
        return -whitened_distances(units, self.means_, self.whitenings_).amin(dim=1)
