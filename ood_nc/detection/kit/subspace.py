"""A base for detectors that measure what lies outside the principal subspace of the ID train features."""

from __future__ import annotations

from torch import Tensor

from ood_nc.detection.context import TapStatistics
from ood_nc.detection.feature_base import FeatureDetector
from ood_nc.detection.kit import linalg
from ood_nc.detection.kit.parameters import Parameter, check_not_both, share, whole
from ood_nc.errors import UserError


class ResidualDetector(FeatureDetector):
    """Base of detectors that measure h - u outside the principal subspace, u = -W^+ b the origin of the head.

    A detector needs "features" and "head", and scores by ``_residual``, as :class:`ViM
    <ood_nc.detection.detectors.vim.VirtualLogitMatching>` does.

    Args:
        dim: dimensions of the principal subspace; None: 1000 where d >= 2048, 512 where d >= 768, else d // 2.
        explained_variance: choose ``dim`` as the smallest that explains this share of the second moment around u.
    """

    dim = Parameter[int | None](None, whole(0).or_none())
    explained_variance = Parameter[float | None](None, share.or_none(), search=(0.5, 0.7, 0.8, 0.9, 0.95, 0.99))

    def _check_parameters(self) -> None:
        check_not_both(self, "dim", "explained_variance")

    def _fit(self, train: TapStatistics) -> None:
        self.origin_ = train.head_origin
        dim = self._principal(train.eigen_at_head_origin, train.dim)
        if dim >= train.dim:
            raise UserError(
                f"Detector {self.name!r}: dim {dim} leaves nothing of {train.dim} features per sample; choose less."
            )
        self.basis_ = train.eigen_at_head_origin.vectors[:, dim:].contiguous()

    def _principal(self, decomposition: linalg.Eigen, width: int) -> int:
        """Dimensions of the principal subspace; by default the rule of ViM's authors."""
        if self.explained_variance is not None:
            return min(linalg.explaining(decomposition, self.explained_variance), width - 1)
        if self.dim is not None:
            return self.dim
        return 1000 if width >= 2048 else 512 if width >= 768 else width // 2

    def _residual(self, features: Tensor) -> Tensor:
        """Norm of the part of h - u outside the principal subspace (B,)."""
        return linalg.projection_norm(features, self.origin_, self.basis_)
