"""Scaling of activations."""

from __future__ import annotations

from torch import Tensor

from ood_nc.detection import DetectorInfo, register_detector
from ood_nc.detection.kit.parameters import Parameter, percent
from ood_nc.detection.kit.shaping import PERCENTILES, PruningDetector, largest_sum, scaling, sum_ratio


@register_detector
class Scale(PruningDetector):
    """Energy of the head's logits on scaled features (SCALE; Xu et al., ICLR 2024).

    The features are multiplied by exp(s1 / s2), s1 the sum of the row and s2 that of its largest activations; none is
    pruned, so the logits without their bias are what is multiplied. s1 / s2 is 1 for a row of zeros and cut off at 500,
    far beyond what a percentile of 99 can give, so every score is finite.

    Args:
        percentile: share of each row's activations left out of s2, in percent.
    """

    name = "scale"
    info = DetectorInfo(
        title="Scaling for Training Time and Post-hoc Out-of-distribution Detection Enhancement",
        venue="ICLR 2024",
        url="https://arxiv.org/abs/2310.00227",
        needs="non-negative features, logits and the linear head",
        domain="real",
        cost="fit none; score O(B (d + C)), and O(B d C) for the logits where they are not given",
    )
    requires = frozenset({"features", "logits", "head", "nonnegative"})

    percentile = Parameter(85.0, percent, search=PERCENTILES)

    def _score_rows(self, features: Tensor, logits: Tensor) -> Tensor:
        factor = scaling(sum_ratio(features, largest_sum(features, self._kept(features))))
        return ((logits - self.head.bias) * factor + self.head.bias).logsumexp(dim=1)
