"""Cosine to the nearest vertex of a simplex equiangular tight frame."""

from __future__ import annotations

import torch
from torch import Tensor

from ood_nc.detection import DetectorInfo, FeatureDetector, TapQueries, TapStatistics, register_detector
from ood_nc.detection.errors import MissingInputError
from ood_nc.detection.kit import linalg
from ood_nc.detection.kit.parameters import Parameter, one_of
from ood_nc.errors import UserError


@register_detector
class EtfCosine(FeatureDetector):
    """Largest cosine to a vertex of a simplex ETF, the shape class means take under full collapse (Papyan et al.).

    Args:
        vertices: ``"means"``: the simplex ETF closest to the centred class means of ID train (orthogonal Procrustes:
            the polar factor of the centred means), features taken around the mean of the class means. ``"head"``: the
            rows of the head as they are, for a fixed ETF classifier, features not centred.
    """

    name = "etf_cosine"
    info = DetectorInfo(
        title="Cosine to the simplex ETF vertices",
        venue="this project",
        url="https://arxiv.org/abs/2502.10691",
        needs="features and ID train labels (or a fixed ETF head)",
        domain="[-1, 1]",
        cost="fit O(N d + d C^2); score O(B d C)",
    )
    requires = frozenset({"features", "labels"})

    vertices = Parameter("means", one_of("means", "head"))

    def _fit(self, train: TapStatistics) -> None:
        if self.vertices == "head":
            if not train.has_head:
                raise MissingInputError(self.name, {"head"}, self.requires | {"head"}, "fit")
            self.vertices_ = linalg.safe_normalize(train.head.weight)
            self.center_ = torch.zeros_like(train.head.weight[0])
            return
        classes, dim = train.class_means.shape
        if classes < 2 or dim < classes - 1:
            raise UserError(
                f"Detector {self.name!r}: {classes} classes have no simplex ETF in {dim} dimensions; it takes at least "
                "2 classes and as many dimensions as classes less one."
            )
        self.center_ = train.global_mean
        self.vertices_ = nearest_simplex_etf(train.class_means - self.center_)

    def _score(self, queries: TapQueries) -> Tensor:
        return linalg.largest_cosine(queries.features, self.center_, self.vertices_)


def nearest_simplex_etf(centered_means: Tensor) -> Tensor:
    """The unit-norm simplex ETF (C, d) whose rows are closest in direction, all together, to the rows given (C, d).

    Means that span fewer than C - 1 dimensions leave part of the frame free; it is then filled from the null space, so
    the result is still a simplex ETF.
    """
    classes = len(centered_means)
    centering = torch.eye(classes, dtype=torch.float64, device=centered_means.device) - 1 / classes
    # An orthonormal basis of the rows that sum to zero: C x (C - 1).
    helmert = torch.linalg.qr(centering)[0][:, : classes - 1]
    left, _, right = torch.linalg.svd(helmert.T @ centered_means, full_matrices=False)
    return linalg.safe_normalize(helmert @ (left @ right))
