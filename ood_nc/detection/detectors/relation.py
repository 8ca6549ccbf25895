"""Neural relation graph."""

from __future__ import annotations

import torch
from torch import Tensor

from ood_nc.detection import DetectorInfo, FeatureDetector, TapStatistics, register_detector
from ood_nc.detection.kit import linalg
from ood_nc.detection.kit.densities import blocks, random_subset
from ood_nc.detection.kit.parameters import Parameter, nonnegative, positive, whole


@register_detector
class NeuralRelationGraph(FeatureDetector):
    """Sum of relations to ID train (Kim et al., NeurIPS 2023).

    The relation to a train sample is max(cos(h, b), 0) times the inner product of the two softmax outputs; those of at
    most ``threshold`` count as no relation, the others are raised to ``power`` and summed. The paper sums over all of
    ID train; a subset scales the scores and leaves the ranking much the same.

    Args:
        power: of a relation.
        threshold: relations up to this are left out.
        bank_size: samples of ID train, a random subset; None: all.
        seed: of the random subset.
    """

    name = "relation"
    info = DetectorInfo(
        title="Neural Relation Graph: A Unified Framework for Identifying Label Noise and Outlier Data",
        venue="NeurIPS 2023",
        url="https://arxiv.org/abs/2301.12321",
        needs="features and logits",
        domain="[0, inf)",
        cost="fit O(N d); score O(B bank_size (d + C))",
    )
    requires = frozenset({"features", "logits"})

    power = Parameter(1.0, positive, search=(1.0, 2.0, 4.0, 6.0, 8.0))
    threshold = Parameter(0.03, nonnegative)
    bank_size = Parameter[int | None](1000, whole(1).or_none())
    seed = Parameter(0, whole(0))

    def _fit(self, train: TapStatistics) -> None:
        chosen = random_subset(len(train), self.bank_size, self.seed).to(train.device)
        self.units_ = linalg.safe_normalize(train.features[chosen])
        self.probabilities_ = train.logits[chosen].softmax(dim=1)

    def _score_rows(self, features: Tensor, probabilities: Tensor) -> Tensor:
        rows = linalg.safe_normalize(features)
        sums = []
        for units, bank_probabilities in blocks(self.units_, self.probabilities_):
            relations = (rows @ units.T).mul_(probabilities @ bank_probabilities.T)
            # The threshold is not negative, so it also drops negative cosines.
            relations = torch.nn.functional.threshold(relations, self.threshold, 0.0)
            sums.append((relations if self.power == 1 else relations.pow_(self.power)).sum(dim=1))
        return torch.stack(sums, dim=1).sum(dim=1)
