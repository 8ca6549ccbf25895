"""Distance of gradients with respect to an OOD prototype."""

from __future__ import annotations

import torch
from torch import Tensor

from ood_nc.detection import DetectorInfo, FeatureDetector, TapStatistics, register_detector
from ood_nc.detection.kit import linalg
from ood_nc.detection.kit.densities import blocks, random_subset
from ood_nc.detection.kit.parameters import Parameter, one_of, whole


@register_detector
class GradientOod(FeatureDetector):
    """Minus the distance of a gradient to the nearest of ID train's (ElAraby et al., 2023).

    The gradient is that of the cross-entropy of a nearest-prototype classifier, softmax(-|h - p|) over the class means
    and one OOD prototype q, with respect to q. In closed form it is P_q (h - q) / |h - q|, P_q the probability of q,
    whatever the label. ID train counts where it is classified correctly (all of it where nothing is).

    Args:
        prototype: what stands for OOD without outliers: ``"mean"``, the mean of the class means, or ``"mixup"``, the
            mean over ID train of samples half mixed with the mean of their second most likely class.
        bank_size: gradients of ID train, a random subset; None: all.
        seed: of the random subset.
    """

    name = "grood"
    info = DetectorInfo(
        title="GROOD: Gradient-Aware Out-of-Distribution Detection",
        venue="arXiv 2023",
        url="https://arxiv.org/abs/2312.14427",
        needs="features, logits and ID train labels",
        domain="[-2, 0]",
        cost="fit O(N d C); score O(B d (C + bank_size))",
    )
    requires = frozenset({"features", "labels", "logits"})

    prototype = Parameter("mean", one_of("mean", "mixup"), search=("mean", "mixup"))
    bank_size = Parameter[int | None](2000, whole(1).or_none())
    seed = Parameter(0, whole(0))

    def _fit(self, train: TapStatistics) -> None:
        # Around the centre of the class means, products keep the digits of the distances.
        self.center_ = train.global_mean
        outlier = train.global_mean if self.prototype == "mean" else self._mixed(train)
        # The OOD prototype is the last.
        self.prototypes_ = torch.cat([train.class_means, outlier[None]]) - self.center_
        correct = torch.nonzero(train.predictions == train.labels)[:, 0]
        if not len(correct):
            correct = torch.arange(len(train), device=train.device)
        chosen = random_subset(len(correct), self.bank_size, self.seed).to(train.device)
        self.bank_ = linalg.by_chunks(self._gradients, train.features[correct[chosen]])

    def _mixed(self, train: TapStatistics) -> Tensor:
        """Mean of the samples, each half mixed with the mean of its second most likely class among those there are."""
        present = train.classes[train.classes < train.num_logits]
        if len(present) < 2:
            return train.global_mean
        second = present[train.logits[:, present].topk(2, dim=1).indices[:, 1]]
        shares = torch.bincount(torch.searchsorted(train.classes, second), minlength=len(train.classes)) / len(train)
        return (train.mean + shares.double() @ train.class_means) / 2

    def _gradients(self, features: Tensor) -> Tensor:
        rows = features.to(torch.float64, copy=True).sub_(self.center_)
        distances = linalg.squared_distances(rows, self.prototypes_).sqrt()
        probability = (-distances).softmax(dim=1)[:, -1:]
        offsets = rows.sub_(self.prototypes_[-1])
        return offsets.mul_(probability / offsets.norm(dim=1, keepdim=True).clamp_min(linalg.NORM_FLOOR))

    def _score_rows(self, features: Tensor) -> Tensor:
        rows = self._gradients(features)
        squares = [linalg.nearest_squared_distance(rows, bank) for (bank,) in blocks(self.bank_)]
        return -torch.stack(squares, dim=1).amin(dim=1).clamp_min(0).sqrt()
