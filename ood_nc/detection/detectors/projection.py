"""Projection on the class means, weighted by the softmax."""

from __future__ import annotations

import torch
from torch import Tensor

from ood_nc.detection import DetectorInfo, FeatureDetector, TapStatistics, register_detector
from ood_nc.detection.kit import linalg
from ood_nc.detection.kit.densities import class_means_by_logit


@register_detector
class Projection(FeatureDetector):
    """Length of the feature along the class means, weighted by the softmax (Dadalto et al., 2023).

    sum_c p_c |h| cos(h, mu_c), p the softmax of the logits and mu_c the mean of class c on ID train. The paper combines
    this over the layers of a network; here it is the score of one tap, for ensembles over taps to combine. A class
    without samples adds nothing.
    """

    name = "projection"
    info = DetectorInfo(
        title="A Functional Data Perspective and Baseline on Multi-Layer Out-of-Distribution Detection",
        venue="arXiv 2023",
        url="https://arxiv.org/abs/2306.03522",
        needs="features, logits and ID train labels",
        domain="real",
        cost="fit O(N d); score O(B d C)",
    )
    requires = frozenset({"features", "labels", "logits"})

    def _fit(self, train: TapStatistics) -> None:
        self.directions_ = linalg.safe_normalize(class_means_by_logit(train))

    def _score_rows(self, features: Tensor, probabilities: Tensor) -> Tensor:
        lengths = linalg.products(features, self.directions_)
        weighted: Tensor = torch.linalg.vecdot(lengths, probabilities)
        return weighted
