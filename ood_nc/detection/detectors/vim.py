"""Virtual-logit matching."""

from __future__ import annotations

from torch import Tensor

from ood_nc.detection import DetectorInfo, TapQueries, TapStatistics, register_detector
from ood_nc.detection.kit.subspace import ResidualDetector


@register_detector
class VirtualLogitMatching(ResidualDetector):
    """Energy minus the virtual logit: log sum_c exp(logit_c) - alpha |r| (Wang et al., CVPR 2022, equations 4 to 7).

    r is the part of h - u outside the principal subspace of the ID train features around the origin u = -W^+ b, and
    alpha the mean largest logit over the mean |r|, both on ID train. A head without bias has the origin 0.

    Args:
        dim: dimensions of the principal subspace; None: 1000 where d >= 2048, 512 where d >= 768, else d // 2 (the
            authors' rule).
        explained_variance: choose ``dim`` as the smallest that explains this share of the second moment around u.
    """

    name = "vim"
    info = DetectorInfo(
        title="ViM: Out-Of-Distribution with Virtual-logit Matching",
        venue="CVPR 2022",
        url="https://arxiv.org/abs/2203.10807",
        needs="features, logits and the linear head",
        domain="real",
        cost="fit O(N d^2 + d^3); score O(B d (d - dim))",
    )
    requires = frozenset({"features", "logits", "head"})

    def _fit(self, train: TapStatistics) -> None:
        super()._fit(train)
        residual = float(self._residual(train.features).mean())
        scale = float(train.max_logit.mean())
        # Without a residual on ID train there is no scale to match, and every query's energy stands alone.
        self.alpha_ = scale / residual if residual > 0 else 0.0

    def _score(self, queries: TapQueries) -> Tensor:
        return queries.log_sum_exp - self.alpha_ * self._residual(queries.features)
