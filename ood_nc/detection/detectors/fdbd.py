"""Distance to the decision boundaries."""

from __future__ import annotations

import torch
from torch import Tensor

from ood_nc.detection import DetectorInfo, FeatureDetector, TapStatistics, register_detector
from ood_nc.detection.kit import linalg
from ood_nc.detection.kit.parameters import Parameter, one_of


@register_detector
class FastDecisionBoundary(FeatureDetector):
    """Mean distance to the head's decision boundaries, over the distance to the ID train mean (Liu & Qin, ICML 2024).

    mean over c != y of (l_y - l_c) / |w_y - w_c|, divided by |h - m|: y the predicted class, l the logits,
    m the mean of the ID train features. Classes whose weights coincide have no boundary and add nothing.

    Args:
        normalizer: ``"distance"`` divides by |h - m|, as the paper does, ``"norm"`` by |h|.
    """

    name = "fdbd"
    info = DetectorInfo(
        title="Fast Decision Boundary based Out-of-Distribution Detector",
        venue="ICML 2024",
        url="https://arxiv.org/abs/2312.11536",
        needs="features, logits and the linear head",
        domain="[0, inf)",
        cost="fit O(N d + C^2 d); score O(B (d + C))",
    )
    requires = frozenset({"features", "logits", "head"})

    normalizer = Parameter("distance", one_of("distance", "norm"), search=("distance", "norm"))

    def _fit(self, train: TapStatistics) -> None:
        weight = train.head.weight
        self.center_ = train.mean if self.normalizer == "distance" else torch.zeros_like(train.mean)
        distances = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")
        apart = distances > linalg.RELATIVE_CUTOFF * weight.norm(dim=1).amax()
        inverse = torch.where(apart, 1 / distances, torch.zeros_like(distances))
        self.inverse_distances_ = inverse / max(1, len(weight) - 1)

    def _score_rows(self, features: Tensor, logits: Tensor, predictions: Tensor) -> Tensor:
        gaps = logits.amax(dim=1, keepdim=True) - logits
        boundary = torch.linalg.vecdot(gaps, self.inverse_distances_[predictions])
        length = (features.double() - self.center_).norm(dim=1)
        return torch.div(boundary, length.clamp_min(linalg.NORM_FLOOR))
