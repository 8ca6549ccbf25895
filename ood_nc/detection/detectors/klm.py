"""KL matching."""

from __future__ import annotations

import torch
from torch import Tensor

from ood_nc.detection import DetectorInfo, FeatureDetector, TapStatistics, register_detector
from ood_nc.detection.kit import linalg, softmax


@register_detector
class KLMatching(FeatureDetector):
    """Minus the smallest KL divergence from the softmax to a class template (Hendrycks et al., ICML 2022).

    - min_k KL(p || t_k), t_k the mean softmax of the samples predicted as class k. The templates come from the
    held-out data of a :class:`TapStatistics` with ``held_out``; without it from the train data, which is optimistic:
    there the network is more confident than on any new sample. A class that is never predicted has the one-hot
    template in the paper's code, which is infinitely far from every softmax and so never the nearest; it has none here.
    """

    name = "klm"
    info = DetectorInfo(
        title="Scaling Out-of-Distribution Detection for Real-World Settings",
        venue="ICML 2022",
        url="https://arxiv.org/abs/1911.11132",
        needs="logits, also of ID train (better: of held-out ID)",
        domain="(-inf, 0]",
        cost="fit O(N C); score O(B C^2)",
    )
    requires = frozenset({"logits"})
    fits_on_held_out = True

    def _fit(self, train: TapStatistics) -> None:
        logits, predicted = train.calibration.logits, train.calibration.predictions
        classes = logits.shape[1]
        sums = logits.new_zeros(classes, classes)
        for part, labels in linalg.chunks(logits, predicted):
            sums.index_add_(0, labels, softmax.log_probabilities(part)[0].exp())
        counts = torch.bincount(predicted, minlength=classes)
        present = counts.nonzero()[:, 0]
        templates = sums[present] / counts[present, None]
        # The class's own entry from the others, because it is within rounding of 1 for a confident network.
        own = torch.zeros_like(templates, dtype=torch.bool).scatter_(1, present[:, None], True)
        others = templates.masked_fill(own, 0.0).sum(dim=1, keepdim=True)
        floor = torch.finfo(torch.float64).tiny
        self.log_templates_ = torch.where(own, torch.log1p(-others), templates.clamp_min(floor).log())

    def _score_rows(self, logits: Tensor) -> Tensor:
        log_p, _ = softmax.log_probabilities(logits)
        p = log_p.exp()
        cross = (p @ self.log_templates_.T).amax(dim=1)
        return (cross - (p * log_p).sum(dim=1)).clamp_max(0.0)
