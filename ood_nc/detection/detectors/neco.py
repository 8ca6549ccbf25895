"""Share of the feature norm in the principal components."""

from __future__ import annotations

import torch
from torch import Tensor

from ood_nc.detection import DetectorInfo, FeatureDetector, TapStatistics, register_detector
from ood_nc.detection.kit import linalg
from ood_nc.detection.kit.parameters import Parameter, check_not_both, flag, share, whole
from ood_nc.errors import UserError

DEFAULT_EXPLAINED_VARIANCE = 0.9


@register_detector
class Neco(FeatureDetector):
    """How much of the standardised feature lies in the principal components of ID train (Ammar et al., ICLR 2024).

    |P z| / |z| times the largest logit, z the feature standardised on ID train and P its first principal
    components. A column that is constant on ID train has no scale and stays 0. A feature equal to the mean scores 0.

    Args:
        dim: number of principal components.
        explained_variance: choose ``dim`` as the smallest that explains this share of the variance; None with ``dim``
            None: 0.9.
        max_logit: multiply by the largest logit, as the authors do except for ResNets. Where largest logits can be
            negative, leave it out.
    """

    name = "neco"
    info = DetectorInfo(
        title="NECO: NEural Collapse Based Out-of-distribution detection",
        venue="ICLR 2024",
        url="https://arxiv.org/abs/2310.06823",
        needs="features and logits",
        domain="real; [0, 1] without the largest logit",
        cost="fit O(N d^2 + d^3); score O(B d dim)",
    )
    requires = frozenset({"features", "logits"})

    dim = Parameter[int | None](None, whole(1).or_none())
    explained_variance = Parameter[float | None](None, share.or_none(), search=(0.5, 0.7, 0.8, 0.9, 0.95, 0.99))
    max_logit = Parameter(True, flag, search=(False, True))

    def _check_parameters(self) -> None:
        check_not_both(self, "dim", "explained_variance")

    def _fit(self, train: TapStatistics) -> None:
        if self.dim is not None and self.dim > train.dim:
            raise UserError(f"Detector 'neco': dim {self.dim} is more than the {train.dim} features per sample.")
        deviations = train.covariance.diagonal().sqrt()
        constant = deviations <= linalg.RELATIVE_CUTOFF * train.mean.abs()
        self.mean_ = train.mean
        self.scale_ = torch.where(constant, torch.zeros_like(deviations), 1 / deviations)
        # The covariance of the standardised features, without a second pass over them.
        decomposition = linalg.eigen(train.covariance * self.scale_ * self.scale_[:, None])
        dim = self.dim
        if dim is None:
            dim = linalg.explaining(decomposition, self.explained_variance or DEFAULT_EXPLAINED_VARIANCE)
        self.components_ = decomposition.vectors[:, :dim].contiguous()

    def _score_rows(self, features: Tensor, max_logit: Tensor) -> Tensor:
        standardised = features.to(torch.float64, copy=True).sub_(self.mean_).mul_(self.scale_)
        length = standardised.norm(dim=1).clamp_min(linalg.NORM_FLOOR)
        ratio = torch.div((standardised @ self.components_).norm(dim=1), length)
        return ratio * max_logit if self.max_logit else ratio
