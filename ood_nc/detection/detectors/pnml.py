"""Regret of the predictive normalised maximum likelihood learner."""

from __future__ import annotations

import torch
from torch import Tensor

from ood_nc.detection import DetectorInfo, FeatureDetector, TapStatistics, register_detector
from ood_nc.detection.kit import linalg, softmax
from ood_nc.detection.kit.densities import second_moment_of
from ood_nc.detection.kit.whitening import whiten, whitening


@register_detector
class PredictiveNormalizedMaximumLikelihood(FeatureDetector):
    """Minus the regret of a single layer learner for not knowing the label (Bibas et al., NeurIPS 2021).

    - log sum_c p_c / (p_c + p_c^g (1 - p_c)), in nats: p the head's softmax of the normalised feature x = h / |h|, and
    g = max(|x_out|^2, a / (1 + a)) with a = x' (X' X)^+ x, X the normalised ID train features and x_out the part of x
    outside their span, as in the authors' code. A head with a bias learns from a constant 1 too, which X and x then
    carry as a further column. Directions whose second moment is below 1e-12 of the largest are outside the span;
    ``rank_`` says how many are inside.
    """

    name = "pnml"
    info = DetectorInfo(
        title="Single Layer Predictive Normalized Maximum Likelihood for Out-of-Distribution Detection",
        venue="NeurIPS 2021",
        url="https://arxiv.org/abs/2110.09246",
        needs="features and the linear head",
        domain="[-log C, 0]",
        cost="fit O(N d^2 + d^3); score O(B d (d + C))",
    )
    requires = frozenset({"features", "head"})

    def _fit(self, train: TapStatistics) -> None:
        self.has_bias_ = bool(train.head.bias.any())
        moment = second_moment_of(train.features, self._inputs)
        decomposition = linalg.eigen(moment)
        # The eigen-decomposition is of X' X / N.
        self.whitening_ = whitening(moment, lambda: decomposition) / len(train) ** 0.5
        self.rank_ = self.whitening_.shape[1]
        self.outside_ = decomposition.vectors[:, self.rank_ :].contiguous()

    def _inputs(self, features: Tensor) -> Tensor:
        """What the learner sees (n, d), or (n, 1 + d) where the head has a bias."""
        units = linalg.safe_normalize(features)
        return torch.nn.functional.pad(units, (1, 0), value=1.0) if self.has_bias_ else units

    def _score_rows(self, features: Tensor) -> Tensor:
        inputs = self._inputs(features)
        units = inputs[:, 1:] if self.has_bias_ else inputs
        log_p, log_rest = softmax.log_probabilities(torch.addmm(self.head.bias, units, self.head.weight.T))
        outside = (inputs @ self.outside_).square().sum(dim=1)
        whitened = whiten(inputs, self.whitening_)
        leverage = torch.linalg.vecdot(whitened, whitened)
        exponent = torch.maximum(outside, leverage / (1 + leverage))[:, None]
        # log of each term, so that neither p = 0 nor p = 1 divides 0 by 0.
        log_terms = torch.nn.functional.logsigmoid((1 - exponent) * log_p - log_rest)
        return -log_terms.logsumexp(dim=1)
