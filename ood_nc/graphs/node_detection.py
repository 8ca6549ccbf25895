"""OOD detection of nodes by every detector of features, with and without propagation of the scores over the graph."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ood_nc.detection import create_feature_detector
from ood_nc.documents import MEAN
from ood_nc.errors import UserError
from ood_nc.evaluation.detection import Resamples
from ood_nc.evaluation.results import MakeRow, Row, reason_of
from ood_nc.evaluation.scores_table import score_column
from ood_nc.graphs.network import GraphNetwork
from ood_nc.graphs.propagation import propagate
from ood_nc.graphs.sources import Sample
from ood_nc.graphs.training import GraphTrainer
from ood_nc.scores import METRICS, percentile_interval, resampled_metrics

HEAD_TAP = "head"


@torch.no_grad()
def outputs_of(network: GraphNetwork, sample: Sample) -> Tensor:
    """The network's outputs on all nodes of a graph (N, C)."""
    outputs: Tensor = network(sample.graph.x, sample.graph.edge_index)
    return outputs


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
        rows: list[Row] = []
        for name in detectors:
            try:
                detector = create_feature_detector(name).fit(features, labels, head=(head, None))
                scores = [detector.score(part) for part in self.features]
            except UserError as error:
                rows += [self._null(name, ood, metric, reason_of(error)) for ood in self.ood for metric in METRICS]
                continue
            smooth = [propagate(s, one.graph.edge_index) for s, one in zip(scores, self.mixed, strict=True)]
            rows += self._measure(name, scores, resamples) + self._measure(f"{name}_propagated", smooth, resamples)
        return rows

    def _row(self, method: str, dataset: str, metric: str, **values: Any) -> Row:
        where = {"kind": "detection", "tap": HEAD_TAP, "depth": head_depth(self.trainer), "group": "near"}
        return self.make(**where, method=method, dataset=dataset, metric=metric, **values)

    def _null(self, method: str, dataset: str, metric: str, reason: str) -> Row:
        return self._row(method, dataset, metric, value=None, reason=reason)

    def _measure(self, method: str, scores: list[Tensor], resamples: Resamples) -> list[Row]:
        by_set = {
            name: torch.cat([s[self._chosen(one, name)] for s, one in zip(scores, self.mixed, strict=True)]).numpy()
            for name in ("id_test", *self.ood)
        }
        self.scores[method] = by_set
        found, rows = [], []
        for name in self.ood:
            drawn = resamples.of("id_test", len(by_set["id_test"])), resamples.of(name, len(by_set[name]))
            found.append(resampled_metrics(by_set["id_test"], by_set[name], *drawn))
            rows += [
                self._value_row(method, name, metric, values, len(by_set[name])) for metric, values in found[-1].items()
            ]
        for metric in found[0]:
            mean = np.mean([one[metric] for one in found], axis=0)
            row = self._value_row(method, MEAN, metric, mean, len(found))
            rows += [row, {**row, "group": "ood"}]
        return rows

    def _value_row(self, method: str, dataset: str, metric: str, values: np.ndarray[Any, Any], n: int) -> Row:
        low, high = percentile_interval(values[1:])
        return self._row(method, dataset, metric, value=values[0], low=low, high=high, n=n)
