"""Norm of the residual outside the principal subspace."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ood_nc.detection import _linalg
from ood_nc.detection._validation import check_share, check_whole
from ood_nc.detection.base import Detector, DetectorInfo
from ood_nc.detection.context import TapQueries, TapStatistics
from ood_nc.detection.detectors.vim import principal_complement
from ood_nc.detection.registry import register_detector
from ood_nc.errors import UserError


@register_detector
class Residual(Detector):
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

    origin_: Tensor
    basis_: Tensor

    def __init__(self, *, dim: int | None = None, explained_variance: float | None = None) -> None:
        self.dim = dim
        self.explained_variance = explained_variance

    def _check_parameters(self) -> None:
        check_whole(self, "dim", 0, none_allowed=True)
        check_share(self, "explained_variance", none_allowed=True)
        if self.dim is not None and self.explained_variance is not None:
            raise UserError("Detector 'residual': give dim or explained_variance, not both.")

    def _search_space(self) -> dict[str, tuple[Any, ...]]:
        return {"explained_variance": (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)}

    def _fit(self, train: TapStatistics) -> None:
        self.origin_ = _linalg.head_origin(*train.head)
        self.basis_ = principal_complement(train, self.origin_, self.dim, self.explained_variance, self.name)

    def _score(self, queries: TapQueries) -> Tensor:
        return -_linalg.projection_norm(queries.features, self.origin_, self.basis_)
