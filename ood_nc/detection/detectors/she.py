"""Simplified Hopfield energy."""

from __future__ import annotations

import torch
from torch import Tensor

from ood_nc.detection import DetectorInfo, FeatureDetector, TapStatistics, register_detector
from ood_nc.detection.kit import linalg
from ood_nc.detection.kit.densities import class_means_by_logit
from ood_nc.detection.kit.parameters import Parameter, one_of


@register_detector
class SimplifiedHopfieldEnergy(FeatureDetector):
    """Similarity to the stored pattern of the predicted class (Zhang et al., ICLR 2023).

    The pattern of a class is the mean of its correctly classified ID train features: of all its features where none is
    classified correctly, and zero for a class without samples.

    Args:
        metric: ``"inner_product"`` (the paper's), ``"euclidean"`` (minus the distance) or ``"cosine"``.
    """

    name = "she"
    info = DetectorInfo(
        title="Out-of-Distribution Detection based on In-Distribution Data Patterns Memorization with Modern Hopfield "
        "Energy",
        venue="ICLR 2023",
        url="https://openreview.net/forum?id=KkazG4lgKL",
        needs="features, logits and ID train labels",
        domain="real",
        cost="fit O(N d); score O(B d)",
    )
    requires = frozenset({"features", "labels", "logits"})

    metric = Parameter(
        "inner_product", one_of("inner_product", "euclidean", "cosine"), search=("inner_product", "euclidean", "cosine")
    )

    def _fit(self, train: TapStatistics) -> None:
        all_means = class_means_by_logit(train)
        num_classes = len(all_means)
        correct = train.predictions == train.labels
        # One more group takes the misclassified samples.
        groups = torch.where(correct, train.labels, num_classes)
        counts = torch.bincount(groups, minlength=num_classes + 1)[:num_classes]
        sums = linalg.class_sums(train.features, groups, num_classes + 1)[:num_classes]
        self.patterns_ = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp_min(1), all_means)

    def _score_rows(self, features: Tensor, predictions: Tensor) -> Tensor:
        wide, patterns = features.double(), self.patterns_[predictions]
        if self.metric == "euclidean":
            return torch.neg((wide - patterns).norm(dim=1))
        if self.metric == "cosine":
            wide, patterns = linalg.safe_normalize(wide), linalg.safe_normalize(patterns)
        products: Tensor = torch.linalg.vecdot(wide, patterns)
        return products
