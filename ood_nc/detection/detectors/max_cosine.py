"""Cosine to the head's weights."""

from __future__ import annotations

import torch
from torch import Tensor

from ood_nc.detection import DetectorInfo, FeatureDetector, TapQueries, TapStatistics, register_detector
from ood_nc.detection.kit import linalg


@register_detector
class MaxCosine(FeatureDetector):
    """Largest cosine between the feature and a row of the head's weight (Techapanurak et al., ACCV 2020).

    Known as max-cosine. The paper trains with a softmax of scaled cosines, whose score this is; it applies to any
    linear head, and leaves out its bias.
    """

    name = "max_cosine"
    info = DetectorInfo(
        title="Hyperparameter-Free Out-of-Distribution Detection Using Cosine Similarity",
        venue="ACCV 2020",
        url="https://arxiv.org/abs/1905.10628",
        needs="features and the linear head",
        domain="[-1, 1]",
        cost="fit O(C d); score O(B d C)",
    )
    requires = frozenset({"features", "head"})

    def _fit(self, train: TapStatistics) -> None:
        self.directions_ = linalg.safe_normalize(self.head.weight)
        self.origin_ = torch.zeros_like(self.head.weight[0])

    def _score(self, queries: TapQueries) -> Tensor:
        return linalg.largest_cosine(queries.features, self.origin_, self.directions_)
