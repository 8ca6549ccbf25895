"""Entropy of the softmax."""

from __future__ import annotations

from torch import Tensor

from ood_nc.detection import DetectorInfo, FeatureDetector, register_detector
from ood_nc.detection.kit import softmax


@register_detector
class Entropy(FeatureDetector):
    """Minus the Shannon entropy of the softmax, in nats: sum_c p_c log p_c (Chan et al., ICCV 2021).

    Taken from the log-softmax in float64, so that confident predictions keep their order.
    """

    name = "entropy"
    info = DetectorInfo(
        title="Entropy Maximization and Meta Classification for Out-of-Distribution Detection in Semantic Segmentation",
        venue="ICCV 2021",
        url="https://arxiv.org/abs/2012.06575",
        needs="logits",
        domain="[-log C, 0]",
        cost="fit none; score O(B C)",
    )
    requires = frozenset({"logits"})
    needs_fit = False

    def _score_rows(self, logits: Tensor) -> Tensor:
        log_p, _ = softmax.log_probabilities(logits)
        return (log_p.exp() * log_p).sum(dim=1)
