"""Activation shaping by pruning and scaling."""

from __future__ import annotations

import torch
from torch import Tensor

from ood_nc.detection.detectors import _shaping
from ood_nc.detection.feature_base import DetectorInfo
from ood_nc.detection.registry import register_detector


@register_detector
class AshS(_shaping.PruningDetector, _shaping.ShapedEnergy):
    """Energy of the head's logits on pruned and scaled activations (ASH-S; Djurisic et al., ICLR 2023).

    Each row's largest activations are multiplied by exp(s1 / s2), s1 and s2 the sums of the row before and after
    pruning; the others become 0. s1 / s2 is 1 for a row of zeros and cut off at 500, far beyond what pruning 99 % can
    give, so every score is finite. Ties are resolved as by ``ash_p``.

    Args:
        percentile: share of each row's activations to prune, in percent.
    """

    name = "ash_s"
    info = DetectorInfo(
        title="Extremely Simple Activation Shaping for Out-of-Distribution Detection",
        venue="ICLR 2023",
        url="https://arxiv.org/abs/2209.09858",
        needs="non-negative features and the linear head",
        domain="real",
        cost="fit none; score O(B d C)",
    )
    requires = frozenset({"features", "head", "nonnegative"})

    def __init__(self, *, percentile: float = 90.0) -> None:
        super().__init__(percentile=percentile)

    def _shape(self, features: Tensor) -> tuple[Tensor, Tensor]:
        kept, _ = _shaping.pruned(features, self._kept(features))
        ratio = _shaping.sum_ratio(features, kept.sum(dim=1, keepdim=True, dtype=torch.float64))
        return kept, _shaping.scaling(ratio)
