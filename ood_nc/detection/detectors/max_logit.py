"""Largest logit."""

from __future__ import annotations

from torch import Tensor

from ood_nc.detection import DetectorInfo, FeatureDetector, TapQueries, register_detector


@register_detector
class MaxLogit(FeatureDetector):
    """Largest logit, unnormalised (Hendrycks et al., ICML 2022, section 3)."""

    name = "max_logit"
    info = DetectorInfo(
        title="Scaling Out-of-Distribution Detection for Real-World Settings",
        venue="ICML 2022",
        url="https://arxiv.org/abs/1911.11132",
        needs="logits",
        domain="real",
        cost="fit none; score O(B C)",
    )
    requires = frozenset({"logits"})
    needs_fit = False

    def _score(self, queries: TapQueries) -> Tensor:
        return queries.max_logit
