"""Activation shaping by pruning."""

from __future__ import annotations

from torch import Tensor

from ood_nc.detection.detectors import _shaping
from ood_nc.detection.feature_base import DetectorInfo
from ood_nc.detection.registry import register_detector


@register_detector
class AshP(_shaping.PruningDetector, _shaping.ShapedEnergy):
    """Energy of the head's logits on each row's largest activations (ASH-P; Djurisic et al., ICLR 2023).

    Where several activations are equal to the smallest that is kept, the places left are divided among them, so neither
    the order of the features nor the batch matters.

    Args:
        percentile: share of each row's activations to prune, in percent.
    """

    name = "ash_p"
    info = DetectorInfo(
        title="Extremely Simple Activation Shaping for Out-of-Distribution Detection",
        venue="ICLR 2023",
        url="https://arxiv.org/abs/2209.09858",
        needs="non-negative features and the linear head",
        domain="real",
        cost="fit none; score O(B d C)",
    )
    requires = frozenset({"features", "head", "nonnegative"})

    def __init__(self, *, percentile: float = 65.0) -> None:
        super().__init__(percentile=percentile)

    def _shape(self, features: Tensor) -> tuple[Tensor, None]:
        return _shaping.pruned(features, self._kept(features))[0], None
