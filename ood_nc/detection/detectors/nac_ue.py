"""Neuron activation coverage."""

from __future__ import annotations

import torch
from torch import Tensor

from ood_nc.detection import DetectorInfo, FeatureDetector, TapStatistics, register_detector
from ood_nc.detection.kit import linalg
from ood_nc.detection.kit.parameters import Parameter, positive, whole

_SAMPLES = 4096


@register_detector
class NeuronActivationCoverage(FeatureDetector):
    """Mean coverage by ID train of the states of a tap's neurons (Liu et al., ICLR 2024).

    The state of neuron i is sigmoid(alpha h_i dL/dh_i), L = KL(uniform || softmax). Through the linear head the
    gradient is W' (p - 1 / C), so no backward pass is needed. [0, 1] is cut into equal intervals; the coverage of an
    interval is the number of ID train states in it over ``filled``, at most 1.

    Args:
        alpha: steepness of the sigmoid. The authors choose it per layer on an OOD set, from 0.001 to 3000 (100 for the
            last block of a ResNet-18). None: over the mean |h_i dL/dh_i| of ID train (4096 evenly spaced samples at
            most), so that the tap's scale drops out.
        bins: number of intervals (the authors' M counts their edges).
        filled: O*, the number of states that fill an interval.
    """

    name = "nac_ue"
    info = DetectorInfo(
        title="Neuron Activation Coverage: Rethinking Out-of-distribution Detection and Generalization",
        venue="ICLR 2024",
        url="https://arxiv.org/abs/2306.02879",
        needs="features, logits and the linear head",
        domain="[0, 1]",
        cost="fit O(N d C); score O(B d C)",
    )
    requires = frozenset({"features", "logits", "head"})

    alpha = Parameter[float | None](None, positive.or_none(), search=(None, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0))
    bins = Parameter(50, whole(1), search=(50, 500, 1000))
    filled = Parameter(50, whole(1), search=(1, 50, 1000))

    def _fit(self, train: TapStatistics) -> None:
        self.alpha_ = self._scale(train) if self.alpha is None else float(self.alpha)
        width = train.dim * self.bins
        counts = torch.zeros(width, dtype=torch.int64, device=train.device)
        for features, logits in linalg.chunks(train.features, train.logits):
            cells = self._cells(features, logits.softmax(dim=1), train.head.weight)
            counts += torch.bincount(cells.reshape(-1), minlength=width)
        # Flat, so that one index finds neuron and interval.
        self.coverage_ = (counts.double() / self.filled).clamp_max_(1)

    @staticmethod
    def _scale(train: TapStatistics) -> float:
        step = -(-len(train) // _SAMPLES)
        probabilities = train.logits[::step].softmax(dim=1)
        size = float(_products(train.features[::step], probabilities, train.head.weight).abs().mean())
        return 1 / size if size > 0 else 1.0

    def _score_rows(self, features: Tensor, probabilities: Tensor) -> Tensor:
        return self.coverage_[self._cells(features, probabilities, self.head.weight)].mean(dim=1)

    def _cells(self, features: Tensor, probabilities: Tensor, weight: Tensor) -> Tensor:
        """Index of each neuron's interval among all (n, d)."""
        states = _products(features, probabilities, weight).mul_(self.alpha_).sigmoid_()
        intervals = states.mul_(self.bins).long().clamp_max_(self.bins - 1)
        return intervals.add_(torch.arange(weight.shape[1], device=weight.device) * self.bins)


def _products(features: Tensor, probabilities: Tensor, weight: Tensor) -> Tensor:
    """h dL/dh (n, d), L the divergence of the softmax from uniform."""
    return ((probabilities - 1 / probabilities.shape[1]) @ weight).mul_(features.double())
