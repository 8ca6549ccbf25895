"""Norm of the gradient at the head."""

from __future__ import annotations

import torch
from torch import Tensor

from ood_nc.detection import DetectorInfo, FeatureDetector, register_detector
from ood_nc.detection.kit.parameters import Parameter, positive


@register_detector
class GradNorm(FeatureDetector):
    """L1 norm of the gradient, by the head's weight, of the KL divergence from uniform to softmax (Huang et al., 2021).

    The gradient is the outer product of softmax(logits / T) - 1/C and the feature, over T, so its norm is
    sum_c |p_c - 1/C| sum_j |h_j| / T: no backward pass.

    Args:
        temperature: T; 1 in the paper.
    """

    name = "gradnorm"
    info = DetectorInfo(
        title="On the Importance of Gradients for Detecting Distributional Shifts in the Wild",
        venue="NeurIPS 2021",
        url="https://arxiv.org/abs/2110.00218",
        needs="features and logits",
        domain="[0, inf)",
        cost="fit none; score O(B (C + d))",
    )
    requires = frozenset({"features", "logits"})
    needs_fit = False

    temperature = Parameter(1.0, positive, search=(0.5, 1.0, 2.0, 5.0, 10.0))

    def _score_rows(self, features: Tensor, logits: Tensor) -> Tensor:
        p = (logits / self.temperature).softmax(dim=1)
        uncertain = (p - 1 / logits.shape[1]).abs().sum(dim=1) / self.temperature
        return uncertain * features.abs().sum(dim=1, dtype=torch.float64)
