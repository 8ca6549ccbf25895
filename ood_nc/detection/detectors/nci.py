"""Neural-collapse-inspired detector."""

from __future__ import annotations

import torch
from torch import Tensor

from ood_nc.detection import DetectorInfo, FeatureDetector, TapStatistics, register_detector
from ood_nc.detection.kit import linalg
from ood_nc.detection.kit.parameters import Parameter, nonnegative


@register_detector
class NeuralCollapseInspired(FeatureDetector):
    """How well the centred feature lies along the predicted class's weight, plus the feature norm (Liu & Qin, CVPR
    2025).

    w_y . (h - m) / |h - m| + alpha |h|_1, m the mean of the ID train features, y the predicted class. A
    feature equal to m scores its norm term alone.

    Args:
        alpha: weight of the L1 norm.
    """

    name = "nci"
    info = DetectorInfo(
        title="Detecting Out-of-Distribution through the Lens of Neural Collapse",
        venue="CVPR 2025",
        url="https://arxiv.org/abs/2311.01479",
        needs="features, logits and the linear head",
        domain="real",
        cost="fit O(N d); score O(B d)",
    )
    requires = frozenset({"features", "logits", "head"})

    alpha = Parameter(1e-4, nonnegative, search=(0.0, 1e-4, 1e-3, 1e-2, 0.05, 0.1, 0.5, 1.0))

    def _fit(self, train: TapStatistics) -> None:
        self.mean_ = train.mean

    def _score_rows(self, features: Tensor, predictions: Tensor) -> Tensor:
        centered = features.double() - self.mean_
        length = centered.norm(dim=1).clamp_min(linalg.NORM_FLOOR)
        along = torch.linalg.vecdot(centered, self.head.weight[predictions]) / length
        return torch.add(along, self.alpha * features.abs().sum(dim=1, dtype=torch.float64))
