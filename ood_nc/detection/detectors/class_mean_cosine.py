"""Cosine to the nearest class mean."""

from __future__ import annotations

import torch
from torch import Tensor

from ood_nc.detection import DetectorInfo, FeatureDetector, TapQueries, TapStatistics, register_detector
from ood_nc.detection.kit import linalg
from ood_nc.detection.kit.parameters import Parameter, flag


@register_detector
class ClassMeanCosine(FeatureDetector):
    """Largest cosine between the feature and a class mean of ID train: the empirical vertices of a collapsed layer.

    Args:
        center: take both around the unweighted mean of the class means. Then the score does not depend on a common
            offset, and with a single class it is 0 everywhere.
    """

    name = "class_mean_cosine"
    info = DetectorInfo(
        title="Cosine to the class means",
        venue="this project",
        url="https://arxiv.org/abs/2502.10691",
        needs="features and ID train labels",
        domain="[-1, 1]",
        cost="fit O(N d); score O(B d C)",
    )
    requires = frozenset({"features", "labels"})

    center = Parameter(False, flag, search=(False, True))

    def _fit(self, train: TapStatistics) -> None:
        self.center_ = train.global_mean if self.center else torch.zeros_like(train.global_mean)
        self.directions_ = linalg.safe_normalize(train.class_means - self.center_)

    def _score(self, queries: TapQueries) -> Tensor:
        return linalg.largest_cosine(queries.features, self.center_, self.directions_)
