"""Log density of a class-conditional Gaussian mixture."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ood_nc.detection import DetectorInfo, FeatureDetector, TapStatistics, register_detector
from ood_nc.detection.kit import linalg
from ood_nc.detection.kit.densities import moments_of
from ood_nc.detection.kit.parameters import Parameter, one_of, share
from ood_nc.detection.kit.whitening import triangular_whitening, whiten, whitened_distances


@register_detector
class GaussianMixture(FeatureDetector):
    """Log density of ID train as one Gaussian a class: log sum_c pi_c N(h; mu_c, S_c).

    The classes are the components (no EM): pi_c is the share of class c, mu_c its mean. With T the covariance around
    the own class mean, over all classes, and S the one of class c alone, S_c is

    - ``"tied"``: T;
    - ``"full"``: (1 - shrinkage) S + shrinkage T (Friedman, 1989);
    - ``"diag"``: the diagonal of that.

    Directions (columns for ``"diag"``) whose variance in T is below 1e-12 of the largest are left out; ``rank_`` says
    how many remain, and the density is that in those.

    Args:
        covariance: ``"tied"``, ``"diag"`` or ``"full"``, as in scikit-learn's GaussianMixture.
        shrinkage: towards T; it keeps classes with fewer samples than dimensions regular.
    """

    name = "gmm"
    info = DetectorInfo(
        title="Regularized Discriminant Analysis",
        venue="Journal of the American Statistical Association 1989",
        url="https://doi.org/10.1080/01621459.1989.10478752",
        needs="features and ID train labels",
        domain="real",
        cost="fit O(N d^2 + d^3), full O(N d^2 + C d^3); score O(B d (d + C)), diag O(B d C), full O(B d^2 C)",
    )
    requires = frozenset({"features", "labels"})

    precisions_: Tensor | None

    covariance = Parameter("tied", one_of("tied", "diag", "full"), search=("tied", "diag", "full"))
    shrinkage = Parameter(0.1, share, search=(0.01, 0.1, 0.5, 0.9))

    def _fit(self, train: TapStatistics) -> None:
        self.center_ = train.global_mean
        # First everything is scaled so that T is the identity; what a class has of its own is then relative to it.
        if self.covariance == "diag":
            variances = train.within_covariance.diagonal()
            alive = variances > linalg.cutoff(variances)
            self.transform_ = torch.where(alive, variances.rsqrt(), torch.zeros_like(variances))
            kept = variances[alive]
        else:
            self.transform_ = train.within_whitening
            kept = train.within_eigen.values[: self.transform_.shape[1]]
        self.rank_ = len(kept)
        self.means_ = self._transformed(train.class_means.clone())
        self.log_weights_ = (train.class_counts.double() / len(train)).log()
        self.log_weights_ -= (self.rank_ * math.log(2 * math.pi) + kept.log().sum()) / 2
        self.precisions_ = None
        if self.covariance == "diag":
            self._fit_diagonals(train)
        elif self.covariance == "full":
            self._fit_full(train)

    def _fit_diagonals(self, train: TapStatistics) -> None:
        squares = torch.zeros_like(self.means_)
        for features, positions in linalg.chunks(train.features, train.class_positions):
            centered = self._transformed(features) - self.means_[positions]
            squares.index_add_(0, positions, centered.square_())
        own = squares / train.class_counts[:, None]
        variances = (1 - self.shrinkage) * own + self.shrinkage
        # Columns left out are 0 everywhere: any variance does.
        variances = torch.where(self.transform_ > 0, variances, torch.ones_like(variances))
        self.log_weights_ -= variances.log().sum(dim=1) / 2
        self.precisions_ = 1 / variances

    def _fit_full(self, train: TapStatistics) -> None:
        whitenings = []
        identity = torch.eye(self.rank_, dtype=torch.float64, device=train.device)
        for position in range(len(self.means_)):
            _, own = moments_of(train.features[train.class_positions == position], self._transformed)
            whitening, log_determinant = triangular_whitening((1 - self.shrinkage) * own + self.shrinkage * identity)
            self.log_weights_[position] -= log_determinant / 2
            whitenings.append(whitening)
        self.precisions_ = torch.stack(whitenings)

    def _transformed(self, features: Tensor) -> Tensor:
        centered = features.to(torch.float64, copy=True).sub_(self.center_)
        if self.covariance == "diag":
            return centered.mul_(self.transform_)
        return whiten(centered, self.transform_)

    def _score_rows(self, features: Tensor) -> Tensor:
        rows = self._transformed(features)
        if self.precisions_ is None:
            distances = linalg.squared_distances(rows, self.means_)
        elif self.covariance == "diag":
            distances = diagonal_distances(rows, self.means_, self.precisions_)
        else:
            distances = whitened_distances(rows, self.means_, self.precisions_)
        return (self.log_weights_ - distances / 2).logsumexp(dim=1)


def diagonal_distances(rows: Tensor, means: Tensor, precisions: Tensor) -> Tensor:
    """Sum over j of (row_j - mean_cj)^2 precision_cj for rows (B, d), means and precisions (C, d): (B, C).

    By two products; the smallest of each row, in which they may have lost its digits, is computed as a difference.
    """
    weighted = means * precisions
    offsets = torch.linalg.vecdot(weighted, means)
    products = torch.addmm(offsets, rows, weighted.T, alpha=-2) + rows.square() @ precisions.T
    nearest = products.argmin(dim=1)
    exact = torch.linalg.vecdot((rows - means[nearest]).square_(), precisions[nearest])
    return products.scatter(1, nearest[:, None], exact[:, None]).clamp_min(0)
