"""Free energy of the logits."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ood_nc.detection.context import TapQueries
from ood_nc.detection.feature_base import DetectorInfo, FeatureDetector
from ood_nc.detection.kit.validation import check_positive
from ood_nc.detection.registry import register_detector


@register_detector
class Energy(FeatureDetector):
    """Negative free energy T log sum_c exp(logit_c / T) (Liu et al., NeurIPS 2020, equation 4).

    On an L2-normalised tap the logits see no feature norm, and neither does this score.

    Args:
        temperature: T; 1 in the paper.
    """

    name = "energy"
    info = DetectorInfo(
        title="Energy-based Out-of-distribution Detection",
        venue="NeurIPS 2020",
        url="https://arxiv.org/abs/2010.03759",
        needs="logits",
        domain="real",
        cost="fit none; score O(B C)",
    )
    requires = frozenset({"logits"})
    needs_fit = False

    def __init__(self, *, temperature: float = 1.0) -> None:
        self.temperature = temperature

    def _check_parameters(self) -> None:
        check_positive(self, "temperature")

    def _search_space(self) -> dict[str, tuple[Any, ...]]:
        return {"temperature": (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)}

    def _score(self, queries: TapQueries) -> Tensor:
        if self.temperature == 1:
            return queries.log_sum_exp
        return self.temperature * (queries.logits / self.temperature).logsumexp(dim=1)
