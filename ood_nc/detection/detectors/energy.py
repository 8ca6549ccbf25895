"""Free energy of the logits."""

from __future__ import annotations

from torch import Tensor

from ood_nc.detection import DetectorInfo, FeatureDetector, TapQueries, register_detector
from ood_nc.detection.kit.parameters import Parameter, positive


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

    temperature = Parameter(1.0, positive, search=(0.1, 0.5, 1.0, 2.0, 5.0, 10.0))

    def _score(self, queries: TapQueries) -> Tensor:
        if self.temperature == 1:
            return queries.log_sum_exp
        return self.temperature * (queries.logits / self.temperature).logsumexp(dim=1)
