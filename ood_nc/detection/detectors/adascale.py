"""AdaSCALE: the percentile of SCALE chosen for each image by how far a small perturbation moves its features."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from ood_nc.detection import DetectorInfo, InputDetector, Network, register_detector
from ood_nc.detection.input_base import Batches
from ood_nc.detection.kit.parameters import Allowed, Parameter, is_number, nonnegative, one_of, share
from ood_nc.detection.network import wide

VARIANTS = ("activations", "logits")


def _are_percentages(value: Any) -> bool:
    pair = isinstance(value, (tuple, list)) and len(value) == 2 and all(map(is_number, value))
    return pair and 0 < value[0] <= value[1] < 100


@register_detector
class AdaSCALE(InputDetector):
    """Energy after scaling by the share of activation above a percentile that each image chooses (Regmi, 2025).

    The values of the image with the smallest absolute gradient of the largest logit move by epsilon along its sign,
    which turns features h into h~. With sums over the features where h is largest, Q' = lambda sum |h~ - h| + sum
    relu(h~). The percentile is p = p_min + (1 - F(Q')) (p_max - p_min), F the distribution function of Q' on ID data,
    and r = sum relu(h) / (sum of the largest 1 - p of relu(h)), 1 where no feature is positive. Features are multiplied
    by exp(r), or logits by r^2.

    Args:
        variant: "activations" (AdaSCALE-A) or "logits" (AdaSCALE-L).
        percentiles: p_min and p_max, in percent.
        shift_share: share of the features whose shift counts (k_2 in the authors' code), at least one feature.
        activation_share: share of the features whose perturbed activation counts (k_1), at least one feature.
        shift_weight: lambda.
        pixel_share: share of the image's values that move, at least one.
        epsilon: size of the step, in the units of the network's input.
    """

    name = "adascale"
    info = DetectorInfo(
        title="AdaSCALE: Adaptive Scaling for OOD Detection",
        venue="arXiv 2025",
        url="https://arxiv.org/abs/2503.08023",
        needs="images and a network with gradients and a linear head; made for post-ReLU features",
        domain="real",
        cost="fit and score two forward passes and one backward",
    )
    requires = frozenset({"network"})

    variant = Parameter("activations", one_of(*VARIANTS))
    percentiles = Parameter[tuple[float, float]](
        (75.0, 85.0),
        Allowed(_are_percentages, "two percentages between 0 and 100, the lower first"),
        search=tuple(combinations((60.0, 65.0, 70.0, 75.0, 80.0, 85.0, 90.0, 95.0, 99.0), 2)),
    )
    shift_share = Parameter(0.01, share)
    activation_share = Parameter(0.05, share)
    shift_weight = Parameter(10.0, nonnegative)
    pixel_share = Parameter(0.05, share)
    epsilon = Parameter(0.5, nonnegative)

    def _fit(self, network: Network, batches: Batches) -> None:
        shifts = [self._shift(*self._both_features(network, images)) for images, _ in batches]
        self.shifts_ = torch.cat(shifts).sort().values

    def _score(self, network: Network, images: Tensor) -> Tensor:
        features, moved = self._both_features(network, images)
        below = torch.searchsorted(self.shifts_, self._shift(features, moved), right=True)
        low, high = self.percentiles
        percentile = low + (1 - below / len(self.shifts_)) * (high - low)
        ratio = activation_ratio(features, percentile)[:, None]
        head = network.head(images)
        if self.variant == "logits":
            return (wide(head(features.to(images))) * ratio**2).logsumexp(dim=1)
        return wide(head((features * ratio.exp()).to(images))).logsumexp(dim=1)

    def _both_features(self, network: Network, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, d) of the images and of the perturbed ones, in float64."""
        gradient, first = network.input_gradient(images, lambda done: done.logits.amax(dim=1), with_features=True)
        rows = gradient.flatten(1)
        count = max(int(self.pixel_share * rows.shape[1]), 1)
        least = rows.abs().argsort(dim=1, stable=True)[:, :count]
        step = torch.zeros_like(rows).scatter_(1, least, rows.gather(1, least).sign())
        second = network.run(images + self.epsilon * step.view_as(images), with_features=True)
        assert first.features is not None and second.features is not None
        return wide(first.features), wide(second.features)

    def _shift(self, features: Tensor, moved: Tensor) -> Tensor:
        """Q' (B,)."""
        order = features.argsort(dim=1, descending=True, stable=True)
        shifted = order[:, : max(int(self.shift_share * features.shape[1]), 1)]
        active = order[:, : max(int(self.activation_share * features.shape[1]), 1)]
        shift: Tensor = (moved - features).abs().gather(1, shifted).sum(dim=1)
        return self.shift_weight * shift + moved.relu().gather(1, active).sum(dim=1)


def activation_ratio(features: Tensor, percentile: Tensor) -> Tensor:
    """Sum of the positive activations over that of the part above each row's percentile (B,); 1 where there is none."""
    values = features.relu().sort(dim=1, descending=True).values
    width = values.shape[1]
    kept = (width - (width * percentile / 100).round().long()).clamp_min(1)
    totals = values.cumsum(dim=1)
    top = totals.gather(1, kept[:, None] - 1)[:, 0]
    return torch.where(top > 0, totals[:, -1] / top.clamp_min(torch.finfo(top.dtype).tiny), torch.ones_like(top))
