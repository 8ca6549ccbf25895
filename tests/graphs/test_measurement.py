from __future__ import annotations

import math

import pytest
import torch

from ood_nc.collapse import UndefinedMetricError
from ood_nc.graphs import BlockModel, GraphNetwork, collapse_by_layer, frame_distance
from ood_nc.graphs.measurement import measure_features, measure_graph, over_graphs, taps


def test_the_orthogonal_frame_and_the_simplex() -> None:
    assert frame_distance(7 * torch.eye(3)) == pytest.approx(0, abs=1e-6)
    simplex = torch.eye(3) - 1 / 3
    # <G/|G|, I/sqrt C> = tr G / (|G| sqrt C) = sqrt((C - 1)/C)
    assert frame_distance(simplex @ simplex.T) == pytest.approx(math.sqrt(2 - 2 * math.sqrt(2 / 3)), abs=1e-6)
    with pytest.raises(UndefinedMetricError):
        frame_distance(torch.zeros(2, 2))


def test_collapsed_features_of_an_orthogonal_frame() -> None:
    labels = torch.arange(3).repeat(4)
    found = measure_features(torch.eye(3)[labels], labels, weight=2 * torch.eye(3))
    assert found["nc1_ratio"] == 0 and found["norm"] == pytest.approx(math.sqrt(12))
    assert all(found[name] == pytest.approx(0, abs=1e-6) for name in ("nc2_of_means", "nc2_of", "nc3_of"))
    assert found["nc2_etf_means"] == pytest.approx(0, abs=1e-6) and found["nc3_duality"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("own_weight", [True, False])
def test_a_graph_is_measured_at_every_tap_by_the_formulas(own_weight: bool) -> None:
    torch.manual_seed(0)
    graph = BlockModel(40, 2, 0.4, 0.1).sample(torch.Generator().manual_seed(0), dim=3)
    network = GraphNetwork(3, 4, 2, depth=3, own_weight=own_weight)
    found = measure_graph(network, graph, graph.y)
    assert {tap for tap, _ in found} == {tap.name for tap in taps(network)}
    for layer, (step, (w1, w2)) in enumerate(
        zip(network.passes(graph.x, graph.edge_index), network.weights(), strict=True), 1
    ):
        h = step.aggregated.double()
        means = torch.stack([h[graph.y == c].mean(dim=0) for c in (0, 1)])
        within = (h - means[graph.y]).square().sum() / 40
        between = (means - means.mean(dim=0)).square().sum() / 2
        assert found[f"layer{layer:03d}.aggregated", "nc1_ratio"] == pytest.approx(float(within / between), rel=1e-5)
        assert found[f"layer{layer:03d}", "norm_w2"] == pytest.approx(float(w2.norm()))
        assert (w1 is not None) == ((f"layer{layer:03d}", "norm_w1") in found)


def test_the_mean_over_graphs_is_geometric_with_its_deviation() -> None:
    found = over_graphs([{("a", "m"): 1.0}, {("a", "m"): 100.0}, {("b", "m"): 5.0}])
    assert found["a", "m"] == pytest.approx((10, 1, 100, 2))
    assert found["b", "m"] == pytest.approx((5, 5, 5, 1))


def test_collapse_by_layer_takes_graphs_with_labels_and_nodes() -> None:
    graph = BlockModel(40, 2, 0.4, 0.1).sample(torch.Generator().manual_seed(0), dim=3)
    network = GraphNetwork(3, 4, 2, depth=2)
    nodes = torch.arange(0, 40, 2)
    found = collapse_by_layer(network, [(graph, graph.y[nodes], nodes)])
    expected = measure_features(graph.x[nodes], graph.y[nodes])["nc1_ratio"]
    assert found["layer001", "nc1_ratio"].mean == pytest.approx(expected)
