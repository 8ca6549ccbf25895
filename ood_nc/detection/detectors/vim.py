"""Virtual-logit matching."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ood_nc.detection import _linalg
from ood_nc.detection._validation import check_share, check_whole
from ood_nc.detection.base import Detector, DetectorInfo
from ood_nc.detection.context import TapQueries, TapStatistics
from ood_nc.detection.registry import register_detector
from ood_nc.errors import UserError


@register_detector
class VirtualLogitMatching(Detector):
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

    origin_: Tensor
    residual_basis_: Tensor
    alpha_: float

    def __init__(self, *, dim: int | None = None, explained_variance: float | None = None) -> None:
        self.dim = dim
        self.explained_variance = explained_variance

    def _check_parameters(self) -> None:
        check_whole(self, "dim", 0, none_allowed=True)
        check_share(self, "explained_variance", none_allowed=True)
        if self.dim is not None and self.explained_variance is not None:
            raise UserError("Detector 'vim': give dim or explained_variance, not both.")

    def _search_space(self) -> dict[str, tuple[Any, ...]]:
        return {"explained_variance": (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)}

    def _fit(self, train: TapStatistics) -> None:
        self.origin_ = _linalg.head_origin(*train.head)
        basis = principal_complement(train, self.origin_, self.dim, self.explained_variance, self.name)
        self.residual_basis_ = basis
        residual = float(self._residual(train.features).mean())
        scale = float(train.max_logit.mean())
        # Without a residual on ID train there is no scale to match, and every query's energy stands alone.
        self.alpha_ = scale / residual if residual > 0 else 0.0

    def _score(self, queries: TapQueries) -> Tensor:
        return queries.log_sum_exp - self.alpha_ * self._residual(queries.features)

    def _residual(self, features: Tensor) -> Tensor:
        return _linalg.projection_norm(features, self.origin_, self.residual_basis_)


def principal_complement(
    train: TapStatistics, origin: Tensor, dim: int | None, explained_variance: float | None, detector: str
) -> Tensor:
    """Orthonormal basis (d, d - dim) of what lies outside the principal subspace of the train features.

    Raises:
        UserError: ``dim`` leaves nothing outside.
    """
    offset = train.mean - origin
    decomposition = _linalg.eigen(train.covariance + torch.outer(offset, offset))
    width = train.dim
    if explained_variance is not None:
        explained = decomposition.values.cumsum(0) / decomposition.values.sum()
        dim = min(int((explained < explained_variance).sum()) + 1, width - 1)
    elif dim is None:
        dim = 1000 if width >= 2048 else 512 if width >= 768 else width // 2
    if dim >= width:
        raise UserError(f"Detector {detector!r}: dim {dim} leaves nothing of {width} features per sample; choose less.")
    return decomposition.vectors[:, dim:].contiguous()
