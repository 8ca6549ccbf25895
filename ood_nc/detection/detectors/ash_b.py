"""Activation shaping by pruning and binarising."""

from __future__ import annotations

import torch
from torch import Tensor

from ood_nc.detection.detectors import _shaping
from ood_nc.detection.feature_base import DetectorInfo
from ood_nc.detection.registry import register_detector


@register_detector
class AshB(_shaping.PruningDetector, _shaping.ShapedEnergy):
    """Energy of the head's logits on binarised activations (ASH-B; Djurisic et al., ICLR 2023).

    Each row's largest activations all become its sum over their number; the others become 0. Zeros are never kept,
    where the authors' code fills up the number with some of them. Where several are equal to the smallest that is kept,
    the places left are divided among them.

    Args:
        percentile: share of each row's activations to prune, in percent.
    """

    name = "ash_b"
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

    def _shape(self, features: Tensor) -> tuple[Tensor, Tensor]:
        _, shares = _shaping.pruned(features, self._kept(features))
        total, kept = (rows.sum(dim=1, keepdim=True, dtype=torch.float64) for rows in (features, shares))
        return shares, total / kept.clamp_min(1.0)
