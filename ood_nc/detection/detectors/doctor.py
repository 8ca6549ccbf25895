"""DOCTOR: odds of a wrong prediction."""

from __future__ import annotations

import torch
from torch import Tensor

from ood_nc.detection import DetectorInfo, FeatureDetector, register_detector
from ood_nc.detection.kit import softmax
from ood_nc.detection.kit.parameters import Parameter, one_of, positive


@register_detector
class Doctor(FeatureDetector):
    """Minus the odds that the prediction is wrong (Granese et al., NeurIPS 2021).

    ``"alpha"``: D_alpha = (1 - g) / g with g = sum_c p_c^2; the class is taken as drawn from the softmax.
    ``"beta"``: D_beta = (1 - p_y) / p_y with p_y the largest probability. In float64, 1 - g and 1 - p_y as sums of
    small terms, so that confident predictions keep their order. Without the paper's gradient step on the input.

    Args:
        variant: "alpha" or "beta".
        temperature: divides the logits; 1 in the paper where the network is a black box.
    """

    name = "doctor"
    info = DetectorInfo(
        title="DOCTOR: A Simple Method for Detecting Misclassification Errors",
        venue="NeurIPS 2021",
        url="https://arxiv.org/abs/2106.02395",
        needs="logits",
        domain="[1 - C, 0]",
        cost="fit none; score O(B C)",
    )
    requires = frozenset({"logits"})
    needs_fit = False

    variant = Parameter("alpha", one_of("alpha", "beta"), search=("alpha", "beta"))
    temperature = Parameter(1.0, positive, search=(0.5, 1.0, 1.5, 2.0, 5.0))

    def _score_rows(self, logits: Tensor) -> Tensor:
        odds = _odds_alpha if self.variant == "alpha" else _odds_beta
        return -odds(logits / self.temperature)


def _odds_alpha(logits: Tensor) -> Tensor:
    log_p, log_rest = softmax.log_probabilities(logits)
    return (log_p + log_rest).exp().sum(dim=1) / (2 * log_p).exp().sum(dim=1)


def _odds_beta(logits: Tensor) -> Tensor:
    top, index = logits.max(dim=1, keepdim=True)
    is_top = index == torch.arange(logits.shape[1], device=logits.device)
    return (logits - top).exp().masked_fill(is_top, 0.0).sum(dim=1)
