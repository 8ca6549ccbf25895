"""Fisher-Rao distance between softmax outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from ood_nc.detection import DetectorInfo, FeatureDetector, TapStatistics, register_detector
from ood_nc.detection.kit.parameters import Parameter, one_of, positive


@register_detector
class Igeood(FeatureDetector):
    """Fisher-Rao distances from the softmax to the class centroids (Gomes et al., ICLR 2022).

    The distance of two softmax outputs p and q is 2 arccos sum_c sqrt(p_c q_c). ``"sum"`` adds those to all centroids,
    as the paper does: a confident prediction is close to one centroid and as far as can be, pi, from all others, an
    uncertain one is less far from each. With two classes any softmax between the centroids has the same sum; take
    ``"min"`` there. The score of logits alone; the paper's other parts (hidden layers, a gradient step on the input)
    need the network.

    Args:
        reduce: "sum" over the centroids, or "min": minus the distance to the nearest.
        temperature: divides the logits of samples and centroids.
    """

    name = "igeood"
    info = DetectorInfo(
        title="Igeood: An Information Geometry Approach to Out-of-Distribution Detection",
        venue="ICLR 2022",
        url="https://arxiv.org/abs/2203.07798",
        needs="logits, also of ID train, and ID train labels",
        domain="[0, C pi]; [-pi, 0] for min",
        cost="fit O(N C); score O(B C^2)",
    )
    requires = frozenset({"logits", "labels"})

    reduce = Parameter("sum", one_of("sum", "min"), search=("sum", "min"))
    temperature = Parameter(1.0, positive, search=(0.5, 1.0, 2.0, 5.0, 10.0))

    def _fit(self, train: TapStatistics) -> None:
        self.roots_ = self._root(train.class_logit_means)

    def _root(self, logits: Tensor) -> Tensor:
        # Half the log-probability is the logarithm of the root, which underflows at twice the distance.
        return (logits / self.temperature).log_softmax(dim=1).div(2).exp()

    def _score_rows(self, logits: Tensor) -> Tensor:
        roots = self._root(logits)
        cosines = roots @ self.roots_.T
        if self.reduce == "sum":
            cosines = cosines.clamp_max(1.0)
            return 4 * _arctan(((1 - cosines) / (1 + cosines)).sqrt()).sum(dim=1)
        centroid = self.roots_[cosines.argmax(dim=1)]
        # The difference over the sum is the tangent of half the angle; close by, the cosine has lost its digits.
        return -4 * _arctan((roots - centroid).norm(dim=1) / (roots + centroid).norm(dim=1))


def _arctan(ratios: Tensor) -> Tensor:
    # onnxruntime has no arc tangent in float64; from 0 to 1 it is as good as its float32 argument.
    return ratios.float().arctan().double() if torch.compiler.is_compiling() else ratios.arctan()
