"""Logit scaling."""

from __future__ import annotations

from torch import Tensor

from ood_nc.detection import DetectorInfo, register_detector
from ood_nc.detection.kit.parameters import Parameter, percent
from ood_nc.detection.kit.shaping import PERCENTILES, PruningDetector, largest_sum, sum_ratio


@register_detector
class LogitScaling(PruningDetector):
    """Energy of the logits times (s1 / s2)^2 (LTS; Djurisic et al., Machine Vision and Applications, 2025).

    s1 is the sum of the row's activations and s2 that of its largest; their ratio is 1 for a row of zeros.

    Args:
        percentile: share of each row's activations left out of s2, in percent; 95 in the paper (the largest 5 %).
    """

    name = "lts"
    info = DetectorInfo(
        title="Logit Scaling for Out-of-Distribution Detection",
        venue="Machine Vision and Applications 2025",
        url="https://arxiv.org/abs/2409.01175",
        needs="non-negative features and logits",
        domain="real",
        cost="fit none; score O(B (d + C))",
    )
    requires = frozenset({"features", "logits", "nonnegative"})
    needs_fit = False

    percentile = Parameter(95.0, percent, search=PERCENTILES)

    def _score_rows(self, features: Tensor, logits: Tensor) -> Tensor:
        ratio = sum_ratio(features, largest_sum(features, self._kept(features)))
        return (logits * ratio.square()).logsumexp(dim=1)
