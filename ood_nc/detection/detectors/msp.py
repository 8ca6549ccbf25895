"""Maximum softmax probability."""

from __future__ import annotations

from torch import Tensor

from ood_nc.detection import DetectorInfo, FeatureDetector, TapQueries, register_detector
from ood_nc.detection.kit.parameters import Parameter, positive


@register_detector
class MaximumSoftmaxProbability(FeatureDetector):
    """Largest softmax probability of the logits over a temperature (Hendrycks & Gimpel, ICLR 2017, section 3).

    Computed in float64: in float32 every logit gap above about 17 gives exactly 1, and the ranking is lost. In float64
    that happens above about 37, which no number in [1/C, 1] can avoid; `temperature` with its log-odds has no such end.

    Args:
        temperature: divides the logits; 1 in the paper.
    """

    name = "msp"
    info = DetectorInfo(
        title="A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural Networks",
        venue="ICLR 2017",
        url="https://arxiv.org/abs/1610.02136",
        needs="logits",
        domain="[1/C, 1]",
        cost="fit none; score O(B C)",
    )
    requires = frozenset({"logits"})
    needs_fit = False

    temperature = Parameter(1.0, positive, search=(0.5, 1.0, 2.0, 5.0, 10.0, 100.0, 1000.0))

    def _score(self, queries: TapQueries) -> Tensor:
        if self.temperature == 1:
            return (queries.max_logit - queries.log_sum_exp).exp()
        scaled = queries.logits / self.temperature
        return (scaled.amax(dim=1) - scaled.logsumexp(dim=1)).exp()
