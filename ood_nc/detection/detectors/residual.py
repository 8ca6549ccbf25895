"""Norm of the residual outside the principal subspace."""

from __future__ import annotations

from torch import Tensor

from ood_nc.detection import DetectorInfo, TapQueries, register_detector
from ood_nc.detection.kit.subspace import ResidualDetector


@register_detector
class Residual(ResidualDetector):
    """Minus the norm of the part of h - u outside the principal subspace of ID train (Wang et al., CVPR 2022).

    The virtual logit of ViM without scale and energy: u = -W^+ b is the origin of the head, and the subspace is that of
    the ID train features around u.

    Args:
        dim: dimensions of the principal subspace; None: 1000 where d >= 2048, 512 where d >= 768, else d // 2.
        explained_variance: choose ``dim`` as the smallest that explains this share of the second moment around u.
    """

    name = "residual"
    info = DetectorInfo(
        title="ViM: Out-Of-Distribution with Virtual-logit Matching",
        venue="CVPR 2022",
        url="https://arxiv.org/abs/2203.10807",
        needs="features and the linear head",
        domain="(-inf, 0]",
        cost="fit O(N d^2 + d^3); score O(B d (d - dim))",
    )
    requires = frozenset({"features", "head"})

    def _score(self, queries: TapQueries) -> Tensor:
        return -self._residual(queries.features)
