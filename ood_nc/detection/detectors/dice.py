"""Directed sparsification."""

from __future__ import annotations

from torch import Tensor

from ood_nc.detection import DetectorInfo, FeatureDetector, TapQueries, TapStatistics, register_detector
from ood_nc.detection.head import Head
from ood_nc.detection.kit import percentile
from ood_nc.detection.kit.parameters import Parameter, percent


@register_detector
class Dice(FeatureDetector):
    """Energy of a head whose less contributing weights are zero (Sun & Li, ECCV 2022).

    The contribution of W_cj is W_cj times the mean of feature j on ID train; weights whose contribution exceeds the
    ``percentile`` of all C x d contributions are kept.

    Args:
        percentile: share of the weights to drop, in percent; 90 in the paper.
    """

    name = "dice"
    info = DetectorInfo(
        title="DICE: Leveraging Sparsification for Out-of-Distribution Detection",
        venue="ECCV 2022",
        url="https://arxiv.org/abs/2111.09805",
        needs="features and the linear head",
        domain="real",
        cost="fit O(N d + C d); score O(B d C)",
    )
    requires = frozenset({"features", "head"})

    percentile = Parameter(90.0, percent, search=(10.0, 30.0, 50.0, 70.0, 90.0))

    def _fit(self, train: TapStatistics) -> None:
        contributions = self.head.weight * train.near_mean
        dropped = contributions <= percentile.percentile(contributions, self.percentile)
        self.weight_ = self.head.weight.masked_fill(dropped, 0.0)

    def _score(self, queries: TapQueries) -> Tensor:
        return TapQueries(queries.features, head=Head(self.weight_, self.head.bias)).log_sum_exp
