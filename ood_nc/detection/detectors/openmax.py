"""OpenMax: Weibull recalibration of the largest logits."""

from __future__ import annotations

import torch
from torch import Tensor

from ood_nc.detection import DetectorInfo, FeatureDetector, TapStatistics, register_detector
from ood_nc.detection.kit import linalg
from ood_nc.detection.kit.parameters import Parameter, whole

TRANSLATION = 1e4
"""Added to the tail's distances, less their smallest, before a Weibull distribution is fitted: libMR's constant."""
_STEPS = 60
_NARROWEST = 1e-12


@register_detector
class OpenMax(FeatureDetector):
    """Log-odds that the sample belongs to a known class after OpenMax (Bendale & Boult, CVPR 2016, algorithms 1, 2).

    For each class, a Weibull distribution is fitted to the ``tail`` largest Euclidean distances of its correctly
    classified train samples' logits v to their mean (of all its samples where none is classified correctly). A query
    gives the share w_c of the logit of each of its ``alpha`` highest classes to the unknown class,
    w_c = (alpha - i) / alpha times the distribution function of its distance to the class's mean, i = 0, 1, ... the
    rank: v_c (1 - w_c) remain and the unknown class gets sum_c v_c w_c. The score is log((1 - P) / P), P the softmax
    probability of the unknown class: the ranking of -P, which runs into 0 and -1. A class without train samples has
    w_c as if it were infinitely far.

    Args:
        tail: number of distances the distribution is fitted to (all where a class has fewer).
        alpha: number of highest classes to recalibrate (all where there are fewer).
    """

    name = "openmax"
    info = DetectorInfo(
        title="Towards Open Set Deep Networks",
        venue="CVPR 2016",
        url="https://arxiv.org/abs/1511.06233",
        needs="logits, also of ID train, and ID train labels",
        domain="real",
        cost="fit O(N C); score O(B C alpha)",
    )
    requires = frozenset({"logits", "labels"})

    tail = Parameter(20, whole(2), search=(10, 20, 30, 40, 50))
    alpha = Parameter(3, whole(1), search=(1, 3, 5, 10, 15, 20))

    def _fit(self, train: TapStatistics) -> None:
        classes = train.num_logits
        correct = train.predictions == train.labels
        hits = torch.bincount(train.labels[correct], minlength=classes)
        used = correct | (hits == 0)[train.labels]
        logits, labels = train.logits[used], train.labels[used]
        counts = torch.bincount(labels, minlength=classes)
        self.known_ = counts > 0
        self.centers_ = linalg.class_sums(logits, labels, classes) / counts.clamp_min(1)[:, None]
        distances = linalg.by_chunks(lambda part, own: (part - self.centers_[own]).norm(dim=1), logits, labels)
        order = labels.argsort(stable=True)
        self.start_, self.location_, self.width_ = _fit_tails(_tails(distances[order], counts.tolist(), self.tail))

    def _score_rows(self, logits: Tensor) -> Tensor:
        alpha = min(self.alpha, logits.shape[1])
        ranked = logits.topk(alpha, dim=1).indices
        shares = torch.stack([self._share(logits, ranked[:, i]) * (alpha - i) / alpha for i in range(alpha)], dim=1)
        given = torch.zeros_like(logits).scatter(1, ranked, shares) * logits
        return (logits - given).logsumexp(dim=1) - given.sum(dim=1)

    def _share(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Distribution function (B,) at each row's distance to the mean of its class in ``classes`` (B,)."""
        excess = (logits - self.centers_[classes]).norm(dim=1) - self.start_[classes]
        place = (_stretched(excess) - self.location_[classes]) / self.width_[classes]
        share = -torch.expm1(-place.clamp(-700.0, 50.0).exp())
        return torch.where(self.known_[classes], share, 1.0)


def _stretched(excess: Tensor) -> Tensor:
    # (x / scale)^shape of the translated x is exp((t - location) / width) of this t, which keeps the digits that
    # adding ten thousand to a distance loses.
    return TRANSLATION * torch.log1p(excess.clamp_min(-TRANSLATION / 2) / TRANSLATION)


def _tails(distances: Tensor, counts: list[int], tail: int) -> Tensor:
    """The ``tail`` largest distances of each class (C, tail), given class by class; -inf where it has fewer."""
    tails = distances.new_full((len(counts), tail), -torch.inf)
    for row, part in zip(tails, distances.split(counts), strict=True):
        kept = min(tail, len(part))
        row[:kept] = part.topk(kept).values
    return tails


def _fit_tails(tails: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Smallest distance of each tail (C,), and location and width (C,) of the Weibull distribution of best likelihood.

    In t of :func:`_stretched` the width w solves sum t e^(t/w) / sum e^(t/w) - mean t = w, which has one solution: the
    left side falls with w. Distances that are all the same give a step there, of relative width 1e-12.
    """
    given = tails > -torch.inf
    number = given.sum(dim=1, keepdim=True).clamp_min(1)
    start = tails.masked_fill(~given, torch.inf).amin(dim=1, keepdim=True).nan_to_num(posinf=0.0)
    t = _stretched(torch.where(given, tails - start, 0.0))
    top = t.amax(dim=1, keepdim=True)
    low = _NARROWEST * torch.where(given, tails, 0.0).amax(dim=1, keepdim=True).clamp_min(1.0)
    high = torch.maximum(top, low)
    for _ in range(_STEPS):
        width = (low * high).sqrt()
        weights = ((t - top) / width).exp().masked_fill(~given, 0.0)
        mean = (t * weights).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True).clamp_min(1.0)
        wider = mean - t.sum(dim=1, keepdim=True) / number > width
        low, high = torch.where(wider, width, low), torch.where(wider, high, width)
    weights = ((t - top) / low).exp().masked_fill(~given, 0.0)
    location = top + low * (weights.sum(dim=1, keepdim=True) / number).clamp_min(_NARROWEST).log()
    return start[:, 0], location[:, 0], low[:, 0]
