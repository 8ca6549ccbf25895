"""OOD detection of nodes by every detector of features, with and without propagation of the scores over the graph."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ood_nc.detection import create_feature_detector
from ood_nc.errors import UserError
from ood_nc.evaluation.detection import null_rows, rows_by_group
from ood_nc.evaluation.measurement_plan import Resamples
from ood_nc.evaluation.results import MakeRow, Row, reason_of
from ood_nc.evaluation.scores_table import score_column
from ood_nc.graphs.network import GraphNetwork
from ood_nc.graphs.propagation import propagate
from ood_nc.graphs.sources import Sample
from ood_nc.graphs.training import GraphTrainer

HEAD_TAP = "head"


@torch.no_grad()
def outputs_of(network: GraphNetwork, sample: Sample) -> Tensor:
    """The network's outputs on all nodes of a graph (N, C)."""
    return network(sample.graph.x, sample.graph.edge_index)


def head_depth(trainer: GraphTrainer) -> int:
    """The depth of the tap that the last layer reads, behind all others."""
    return 4 * len(trainer.network.layers)


@dataclass
class NodeDetection:
    """Detectors on the nodes of graphs in which some are OOD, all from the features that the last layer reads."""

    trainer: GraphTrainer
    make: MakeRow

    def __post_init__(self) -> None:
        source, graphs = self.trainer.source, self.trainer.graphs
        block = graphs.dataset is None
        self.train = [source.train(number) for number in range(graphs.fit_graphs if block else 1)]
        self.mixed = [source.mixed(number) for number in range(graphs.test_graphs if block else 1)]
        self.ood = list(self.mixed[0].ood)
        self.scores: dict[str, dict[str, np.ndarray[Any, Any]]] = {}
        self.features = [self._features(sample) for sample in self.mixed]
        correct = []
        for sample in self.mixed:
            outputs = outputs_of(self.trainer.network, sample)
            correct.append(outputs.argmax(dim=1)[sample.nodes] == sample.matched(outputs))
        self.correct = torch.cat(correct).numpy()

    def _features(self, sample: Sample) -> Tensor:
        return self.trainer.network.head_features(sample.graph.x, sample.graph.edge_index)

    def _chosen(self, sample: Sample, name: str) -> Tensor:
        return sample.nodes if name == "id_test" else sample.ood[name]

    def ids(self, name: str) -> tuple[str, ...]:
        """Graph and node."""
        found = enumerate(self.mixed)
        return tuple(f"{g}/{int(i)}" for g, sample in found for i in self._chosen(sample, name))

    def columns(self, name: str) -> dict[str, Any]:
        """The scores of a set's nodes by detector."""
        return {score_column(HEAD_TAP, method): found[name] for method, found in self.scores.items()}

    def rows(self, detectors: Iterable[str]) -> list[Row]:
        """Every detector as it is, and with its scores propagated over the graph."""
        if not self.ood:
            return []
        resamples = Resamples(self.trainer.config.evaluation.bootstrap, self.trainer.config.train.seed)
        labels = torch.cat([sample.matched(outputs_of(self.trainer.network, sample)) for sample in self.train])
        features = torch.cat([self._features(sample)[sample.nodes] for sample in self.train])
        head = self.trainer.network.head()
        make = partial(self.make, kind="detection", tap=HEAD_TAP, depth=head_depth(self.trainer))
        rows: list[Row] = []
        near = dict.fromkeys(self.ood, "near")
        for name in detectors:
            try:
                detector = create_feature_detector(name).fit(features, labels, head=(head, None))
                scores = [detector.score(part) for part in self.features]
            except UserError as error:
                rows += null_rows(near, reason_of(error), partial(make, method=name))
                continue
            smooth = [propagate(s, one.graph.edge_index) for s, one in zip(scores, self.mixed, strict=True)]
            for method, found in ((name, scores), (f"{name}_propagated", smooth)):
                self.scores[method] = self._by_set(found)
                rows += rows_by_group(self.scores[method], near, resamples, partial(make, method=method))
        return rows

    def _by_set(self, scores: list[Tensor]) -> dict[str, np.ndarray[Any, Any]]:
        return {
            name: torch.cat([s[self._chosen(one, name)] for s, one in zip(scores, self.mixed, strict=True)]).numpy()
            for name in ("id_test", *self.ood)
        }
