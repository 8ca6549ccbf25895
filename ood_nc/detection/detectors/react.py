"""Rectified activations."""

from __future__ import annotations

from torch import Tensor

from ood_nc.detection import DetectorInfo, TapStatistics, register_detector
from ood_nc.detection.kit import percentile
from ood_nc.detection.kit.parameters import Parameter, percent
from ood_nc.detection.kit.shaping import ShapedEnergy


@register_detector
class ReAct(ShapedEnergy):
    """Energy of the head's logits after clipping the features from above (Sun et al., NeurIPS 2021).

    The threshold is a percentile of all N x d activations of ID train, the same for every feature.

    Args:
        percentile: of the threshold; 90 in the paper.
    """

    name = "react"
    info = DetectorInfo(
        title="ReAct: Out-of-distribution Detection With Rectified Activations",
        venue="NeurIPS 2021",
        url="https://arxiv.org/abs/2111.12797",
        needs="features and the linear head",
        domain="real",
        cost="fit O(N d); score O(B d C)",
    )
    requires = frozenset({"features", "head"})

    percentile = Parameter(90.0, percent, search=(85.0, 90.0, 95.0, 99.0))

    def _fit(self, train: TapStatistics) -> None:
        self.threshold_ = self.head.bias.new_tensor(percentile.percentile(train.features, self.percentile))

    def _shape(self, features: Tensor) -> tuple[Tensor, None]:
        return features.clamp_max(self.threshold_.to(features.dtype)), None
