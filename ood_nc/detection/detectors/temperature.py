"""Temperature scaling."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ood_nc.detection import DetectorInfo, FeatureDetector, TapStatistics, register_detector
from ood_nc.detection.kit import linalg, softmax

BOUNDS = (0.01, 100.0)
"""Temperatures looked for. Where every sample is classified correctly, the likelihood grows without end as T falls."""
_STEPS = 60
_CONVERGED = 1e-12


@register_detector
class TemperatureScaling(FeatureDetector):
    """Log-odds of the largest softmax probability at the temperature of best likelihood (Guo et al., ICML 2017).

    T minimises the negative log-likelihood of the labels, on the held-out data of a :class:`TapStatistics` with
    ``held_out``; without it on the train data, which is optimistic: a network that classifies all of them correctly
    gets the lowest temperature there is, 0.01. The likelihood is log-concave in 1/T, so the optimum is unique and
    found to rounding. The score log(p / (1 - p)) ranks as the largest probability p does, which runs into 1.
    """

    name = "temperature"
    info = DetectorInfo(
        title="On Calibration of Modern Neural Networks",
        venue="ICML 2017",
        url="https://arxiv.org/abs/1706.04599",
        needs="logits, and ID train labels (better: of held-out ID)",
        domain="[-log(C - 1), inf)",
        cost="fit O(N C) a Newton step, about 10; score O(B C)",
    )
    requires = frozenset({"logits", "labels"})
    fits_on_held_out = True

    def _fit(self, train: TapStatistics) -> None:
        given = train.calibration
        self.temperature_ = best_temperature(given.logits, given.labels)

    def _score_rows(self, logits: Tensor) -> Tensor:
        return softmax.log_odds(logits / self.temperature_)


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature in :data:`BOUNDS` that minimises the negative log-likelihood: Newton's method, kept in a bracket.

    Args:
        logits: (N, C) float64.
        labels: (N,) int64.
    """
    low, high = 1 / BOUNDS[1], 1 / BOUNDS[0]
    if _slope(logits, labels, high)[0] <= 0:
        return BOUNDS[0]
    if _slope(logits, labels, low)[0] >= 0:
        return BOUNDS[1]
    inverse = 1.0
    for _ in range(_STEPS):
        slope, curvature = _slope(logits, labels, inverse)
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        step = inverse - slope / curvature if curvature > 0 else math.inf
        if not low < step < high:
            step = math.sqrt(low * high)
        converged = abs(step - inverse) <= _CONVERGED * inverse
        inverse = step
        if converged:
            break
    return 1 / inverse


def _slope(logits: Tensor, labels: Tensor, inverse: float) -> tuple[float, float]:
    """First and second derivative of the negative log-likelihood by 1/T."""
    slope = curvature = 0.0
    for part, classes in linalg.chunks(logits, labels):
        # Relative to the own class's logit: where that is the largest by far, no digits are lost in a difference.
        offsets = part - part.gather(1, classes[:, None])
        p = (offsets * inverse).softmax(dim=1)
        mean = torch.linalg.vecdot(p, offsets)
        slope += float(mean.sum())
        curvature += float((p * (offsets - mean[:, None]).square()).sum())
    return slope, curvature
