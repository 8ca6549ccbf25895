"""Collapse of every layer before and after aggregation, in the mean and with its deviation over graphs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from ood_nc.collapse import ClassStatistics, UndefinedMetricError, measure
from ood_nc.graphs.network import GraphNetwork

COLLAPSE = ("nc1_pinv", "nc1_ratio", "trace_within", "trace_between", "nc2_etf_means")
HEAD = ("nc2_etf", "nc3_duality")
_SMALLEST = 1e-16  # what rounding leaves of 0 has no logarithm that means anything
KINDS = ("", ".aggregated", ".w1", ".w2")
"""What is measured at a layer: its input H, A^ H, and the terms W1 H and W2 H A^ of its output apart."""


class Tap(NamedTuple):
    """A place in the network where features are read, with its rank in depth."""

    name: str
    depth: int


def taps(network: GraphNetwork) -> list[Tap]:
    """The taps of every layer, in the order of the computation; layer 1 reads the node features."""
    kinds = [kind for kind in KINDS if network.own_weight or kind != ".w1"]
    return [
        Tap(f"layer{layer:03d}{kind}", 4 * (layer - 1) + KINDS.index(kind))
        for layer in range(1, len(network.layers) + 1)
        for kind in kinds
    ]


def frame_distance(gram: Tensor) -> float:
    """|G/|G|_F - I/sqrt(C)|_F of a Gram matrix (C, C): 0 for an orthogonal frame of equal norms.

    Raises:
        UndefinedMetricError: G is zero.
    """
    norm = gram.norm()
    if not bool(norm > 0):
        raise UndefinedMetricError("the Gram matrix is zero.")
    frame = torch.eye(len(gram), dtype=gram.dtype) / len(gram) ** 0.5
    return float((gram / norm - frame).norm())


def measure_features(features: Tensor, labels: Tensor, weight: Tensor | None = None) -> dict[str, float]:
    """The collapse metrics of node features (N, d); those that are undefined are left out.

    Beside those of `ood_nc.collapse`: ``nc2_of_means`` and, with the head W, ``nc2_of`` and ``nc3_of``, the distances
    of M M', W W' and W M' from an orthogonal frame, with uncentred means M; and ``norm``, |H|_F.
    """
    stats = ClassStatistics(int(labels.max()) + 1, features.shape[1]).update(features, labels)
    names = [*COLLAPSE, *(HEAD if weight is not None else ())]
    found = measure(stats, weight=weight, metrics=names).to_dict()
    means = stats.means
    grams = {"nc2_of_means": means @ means.T}
    if weight is not None:
        head = weight.double()
        grams |= {"nc2_of": head @ head.T, "nc3_of": head @ means.T}
    for name, gram in grams.items():
        found[name] = frame_distance(gram) if float(gram.norm()) > 0 else None
    found["norm"] = float(features.double().norm())
    return {name: value for name, value in found.items() if value is not None}


def measure_graph(
    network: GraphNetwork, graph: Data, labels: Tensor, nodes: Tensor | None = None
) -> dict[tuple[str, str], float]:
    """(tap, metric) to value, on one graph; the weights' norms are ``norm_w1`` and ``norm_w2`` of the layer's input.

    Args:
        network: the network.
        graph: with ``x`` and ``edge_index``.
        labels: classes of the measured nodes (n,), renamed to fit the outputs.
        nodes: their indices (n,); all when not given.
    """
    chosen = torch.arange(len(labels)) if nodes is None else nodes
    found: dict[tuple[str, str], float] = {}
    weights = network.weights()
    for layer, (step, (w1, w2)) in enumerate(zip(network.passes(graph.x, graph.edge_index), weights, strict=True), 1):
        last = layer == len(weights)
        parts = {
            "": (step.input, w1),
            ".aggregated": (step.aggregated, w2),
            ".w1": (step.own, None),
            ".w2": (step.neighbours, None),
        }
        for kind, (features, weight) in parts.items():
            if features is not None:
                values = measure_features(features[chosen], labels, weight if last else None)
                found |= {(f"layer{layer:03d}{kind}", name): value for name, value in values.items()}
        norms = {"norm_w1": w1, "norm_w2": w2}
        found |= {(f"layer{layer:03d}", name): float(w.norm()) for name, w in norms.items() if w is not None}
    return found


class OverGraphs(NamedTuple):
    """Geometric mean over graphs, the same over and times one standard deviation of the logarithm, and the count."""

    mean: float
    low: float
    high: float
    graphs: int


def over_graphs(found: Sequence[dict[tuple[str, str], float]]) -> dict[tuple[str, str], OverGraphs]:
    """Mean and deviation of log10 over graphs, of every (tap, metric) that some graph has; 1e-16 stands for less."""
    keys = dict.fromkeys(key for one in found for key in one)
    summary = {}
    for key in keys:
        logs = np.log10(np.maximum([one[key] for one in found if key in one], _SMALLEST))
        mean, deviation = logs.mean(), logs.std()
        low, middle, high = (float(10**value) for value in (mean - deviation, mean, mean + deviation))
        summary[key] = OverGraphs(middle, low, high, len(logs))
    return summary


def collapse_by_layer(
    network: GraphNetwork, graphs: Iterable[tuple[Data, Tensor, Tensor | None]]
) -> dict[tuple[str, str], OverGraphs]:
    """Every metric of every tap over graphs.

    Args:
        network: the network.
        graphs: each with the labels of the nodes to measure, renamed to fit the outputs
            (`ood_nc.graphs.objective.match_labels`), and those nodes or None for all.
    """
    return over_graphs([measure_graph(network, *graph) for graph in graphs])
