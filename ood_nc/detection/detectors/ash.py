"""Activation shaping: ASH-P prunes, ASH-B also binarises, ASH-S also scales."""

from __future__ import annotations

import torch
from torch import Tensor

from ood_nc.detection import DetectorInfo, register_detector
from ood_nc.detection.kit.parameters import Parameter, percent
from ood_nc.detection.kit.shaping import PERCENTILES, PruningDetector, ShapedEnergy, pruned, scaling, sum_ratio


class ActivationShaping(PruningDetector, ShapedEnergy):
    """Base of the three variants (Djurisic et al., ICLR 2023): energy of the head's logits on each row's largest
    activations, the others 0.

    Zeros are never kept, where the authors' code fills up the number with some of them. Where several are equal to the
    smallest that is kept, the places left are divided among them, so neither the order of the features nor the batch
    matters.
    """

    info = DetectorInfo(
        title="Extremely Simple Activation Shaping for Out-of-Distribution Detection",
        venue="ICLR 2023",
        url="https://arxiv.org/abs/2209.09858",
        needs="non-negative features and the linear head",
        domain="real",
        cost="fit none; score O(B d C)",
    )
    requires = frozenset({"features", "head", "nonnegative"})


@register_detector
class AshP(ActivationShaping):
    """Energy of the head's logits on each row's largest activations (ASH-P; Djurisic et al., ICLR 2023).

    Args:
        percentile: share of each row's activations to prune, in percent.
    """

    name = "ash_p"

    def _shape(self, features: Tensor) -> tuple[Tensor, None]:
        return pruned(features, self._kept(features))[0], None


@register_detector
class AshB(ActivationShaping):
    """Energy of the head's logits on binarised activations (ASH-B; Djurisic et al., ICLR 2023).

    Each row's largest activations all become its sum over their number.

    Args:
        percentile: share of each row's activations to prune, in percent.
    """

    name = "ash_b"

    def _shape(self, features: Tensor) -> tuple[Tensor, Tensor]:
        _, shares = pruned(features, self._kept(features))
        total, kept = (rows.sum(dim=1, keepdim=True, dtype=torch.float64) for rows in (features, shares))
        return shares, total / kept.clamp_min(1.0)


@register_detector
class AshS(ActivationShaping):
    """Energy of the head's logits on pruned and scaled activations (ASH-S; Djurisic et al., ICLR 2023).

    Each row's largest activations are multiplied by exp(s1 / s2), s1 and s2 the sums of the row before and after
    pruning. s1 / s2 is 1 for a row of zeros and cut off at 500, far beyond what pruning 99 % can give, so every score
    is finite.

    Args:
        percentile: share of each row's activations to prune, in percent.
    """

    name = "ash_s"

    percentile = Parameter(90.0, percent, search=PERCENTILES)

    def _shape(self, features: Tensor) -> tuple[Tensor, Tensor]:
        kept, _ = pruned(features, self._kept(features))
        return kept, scaling(sum_ratio(features, kept.sum(dim=1, keepdim=True, dtype=torch.float64)))
