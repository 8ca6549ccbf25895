"""Variational rectified activations."""

from __future__ import annotations

from torch import Tensor

from ood_nc.detection import DetectorInfo, TapStatistics, register_detector
from ood_nc.detection.kit import percentile
from ood_nc.detection.kit.parameters import Parameter, one_of, percent
from ood_nc.detection.kit.shaping import ShapedEnergy
from ood_nc.errors import UserError


@register_detector
class VariationalRectifiedActivation(ShapedEnergy):
    """Energy of the head's logits after rectifying the features on both sides (VRA-P; Xu et al., NeurIPS 2023).

    z becomes 0 below the lower threshold, the upper threshold above it, and stays as it is between. Both are
    percentiles of all N x d activations of ID train. For post-ReLU features, where the lower threshold suppresses small
    activations; below 0 it would lift the lowest above others. Where more than ``lower`` percent of the activations
    are 0, that threshold is 0 and does nothing.

    Args:
        lower: percentile of the lower threshold.
        upper: percentile of the upper threshold; at least ``lower``.
        below: what becomes of activations below the lower threshold: "zero", as in the paper, or "clip" to the
            threshold, as OpenOOD and pytorch-ood do.
    """

    name = "vra"
    info = DetectorInfo(
        title="VRA: Variational Rectified Activation for Out-of-distribution Detection",
        venue="NeurIPS 2023",
        url="https://arxiv.org/abs/2302.11716",
        needs="non-negative features and the linear head",
        domain="real",
        cost="fit O(N d); score O(B d C)",
    )
    requires = frozenset({"features", "head", "nonnegative"})

    lower = Parameter(10.0, percent, search=(1.0, 5.0, 10.0, 15.0, 50.0, 60.0))
    upper = Parameter(90.0, percent, search=(85.0, 90.0, 95.0, 99.0))
    below = Parameter("zero", one_of("zero", "clip"))

    def _check_parameters(self) -> None:
        if self.lower > self.upper:
            raise UserError(f"Detector {self.name!r}: lower {self.lower} is above upper {self.upper}.")

    def _fit(self, train: TapStatistics) -> None:
        lower, upper = (percentile.percentile(train.features, percent) for percent in (self.lower, self.upper))
        self.lower_, self.upper_ = self.head.bias.new_tensor(lower), self.head.bias.new_tensor(upper)

    def _shape(self, features: Tensor) -> tuple[Tensor, None]:
        lower, upper = self.lower_.to(features.dtype), self.upper_.to(features.dtype)
        if self.below == "clip":
            return features.clamp(lower, upper), None
        return features.clamp_max(upper).masked_fill(features < self.lower_, 0.0), None
