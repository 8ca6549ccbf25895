"""Nearest-neighbour guidance."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ood_nc.detection import DetectorInfo, FeatureDetector, TapStatistics, register_detector
from ood_nc.detection.kit import linalg
from ood_nc.detection.kit.densities import blocks, random_subset
from ood_nc.detection.kit.parameters import Allowed, Parameter, is_number, whole
from ood_nc.errors import UserError

DEFAULT_K = 100


@register_detector
class NearestNeighborGuidance(FeatureDetector):
    """Energy times the mean similarity to the nearest features of an energy-weighted bank (Park et al., ICCV 2023).

    E(h) / K * sum of the K largest E(b) cos(h, b) over the bank, E the log-sum-exp of the logits;
    the bank is a random subset of ID train.

    Args:
        k: K; None: 100, or the size of the bank where that is smaller.
        fraction: share of ID train in the bank, which is never smaller than K (as far as ID train goes).
        seed: of the random subset.
    """

    name = "nnguide"
    info = DetectorInfo(
        title="Nearest Neighbor Guidance for Out-of-Distribution Detection",
        venue="ICCV 2023",
        url="https://arxiv.org/abs/2309.14888",
        needs="features and logits",
        domain="real",
        cost="fit O(N d); score O(B fraction N d)",
    )
    requires = frozenset({"features", "logits"})

    k = Parameter[int | None](None, whole(1).or_none(), search=(1, 5, 10, 20, 50, 100))
    fraction = Parameter(
        0.01,
        Allowed(lambda value: is_number(value) and 0 < value <= 1, "above 0 and at most 1"),
        search=(0.01, 0.1, 1.0),
    )
    seed = Parameter(0, whole(0))

    def _fit(self, train: TapStatistics) -> None:
        k = min(DEFAULT_K, len(train)) if self.k is None else self.k
        if k > len(train):
            raise UserError(f"Detector 'nnguide': k = {k} is more than the {len(train)} features of ID train; lower k.")
        size = max(k, math.ceil(self.fraction * len(train)))
        chosen = random_subset(len(train), size, self.seed).to(train.device)
        self.bank_ = linalg.safe_normalize(train.features[chosen]) * train.log_sum_exp[chosen, None]
        self.k_ = k

    def _score_rows(self, features: Tensor, log_sum_exp: Tensor) -> Tensor:
        units = linalg.safe_normalize(features).to(linalg.at_least_float32(features[:0]).dtype)
        products = (linalg.products(units, bank) for (bank,) in blocks(self.bank_))
        best = torch.cat([part.topk(min(self.k_, part.shape[1]), dim=1).values for part in products], dim=1)
        return log_sum_exp * best.topk(self.k_, dim=1).values.mean(dim=1)
