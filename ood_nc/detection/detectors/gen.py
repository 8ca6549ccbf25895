"""Generalised entropy."""

from __future__ import annotations

from torch import Tensor

from ood_nc.detection import DetectorInfo, FeatureDetector, register_detector
from ood_nc.detection.kit import softmax
from ood_nc.detection.kit.parameters import Parameter, positive, whole

DEFAULT_CLASSES = 100


@register_detector
class GeneralizedEntropy(FeatureDetector):
    """Minus the generalised entropy of the largest probabilities (Liu et al., CVPR 2023).

    - sum over the M largest p of p^gamma (1 - p)^gamma. A small gamma looks at probabilities far below float32's
    rounding of 1: both factors come from logarithms in float64, 1 - p of the largest from the sum of the others.

    Args:
        gamma: the exponent; 0.1 in the paper.
        top_classes: M; None: 100, or the number of classes where that is smaller (as is any M that is larger).
    """

    name = "gen"
    info = DetectorInfo(
        title="GEN: Pushing the Limits of Softmax-Based Out-of-Distribution Detection",
        venue="CVPR 2023",
        url="https://openaccess.thecvf.com/content/CVPR2023/html/Liu_GEN_Pushing_the_Limits_of_Softmax-Based_"
        "Out-of-Distribution_Detection_CVPR_2023_paper.html",
        needs="logits",
        domain="[-M / 4^gamma, 0]",
        cost="fit none; score O(B C log M)",
    )
    requires = frozenset({"logits"})
    needs_fit = False

    gamma = Parameter(0.1, positive, search=(0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0))
    top_classes = Parameter[int | None](None, whole(1).or_none(), search=(10, 50, 100, 200, 500, 1000))

    def _score_rows(self, logits: Tensor) -> Tensor:
        log_p, log_rest = softmax.log_probabilities(logits)
        wanted = DEFAULT_CLASSES if self.top_classes is None else self.top_classes
        if wanted < logits.shape[1]:
            log_p, chosen = log_p.topk(wanted, dim=1, sorted=False)
            log_rest = log_rest.gather(1, chosen)
        return -(self.gamma * (log_p + log_rest)).exp().sum(dim=1)
