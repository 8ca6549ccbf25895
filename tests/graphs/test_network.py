from __future__ import annotations

import pytest
import torch

from ood_nc.errors import UserError
from ood_nc.graphs import BlockModel, GraphNetwork, mean_aggregate


def dense(edge_index: torch.Tensor, nodes: int) -> torch.Tensor:
    adjacency = torch.zeros(nodes, nodes, dtype=torch.float64).index_put_(
        (edge_index[1], edge_index[0]), torch.tensor(1.0, dtype=torch.float64)
    )
    return adjacency / adjacency.sum(dim=1, keepdim=True).clamp(min=1)


def graph(isolated: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    drawn = BlockModel(60, 2, 0.2, 0.05).sample(generator, dim=5)
    x = torch.cat([drawn.x, torch.randn(isolated, 5, generator=generator)]).double()
    return x, drawn.edge_index


@pytest.mark.parametrize("own_weight", [True, False])
def test_the_layers_of_pyg_agree_with_dense_algebra(own_weight: bool) -> None:
    torch.manual_seed(0)
    x, edges = graph(isolated=2)
    network = GraphNetwork(5, 7, 2, depth=4, own_weight=own_weight).double()
    operator, h = dense(edges, len(x)), x
    for depth, (w1, w2) in enumerate(network.weights()):
        out = operator @ h @ w2.T + (0 if w1 is None else h @ w1.T)
        positive = out.clamp(min=0)
        deviation = positive.var(dim=0, unbiased=False).add(1e-5).sqrt()
        h = out if depth == 3 else (positive - positive.mean(dim=0)) / deviation
    torch.testing.assert_close(network(x, edges), h, atol=1e-6, rtol=0)


@pytest.mark.parametrize("own_weight", [True, False])
def test_the_passes_are_those_of_forward_and_the_head_is_the_last_layer(own_weight: bool) -> None:
    torch.manual_seed(0)
    x, edges = graph()
    network = GraphNetwork(5, 7, 3, depth=3, own_weight=own_weight).double()
    *_, last = network.passes(x, edges)
    outputs = last.neighbours if last.own is None else last.own + last.neighbours
    torch.testing.assert_close(outputs, network(x, edges))
    torch.testing.assert_close(network.head_features(x, edges) @ network.head().T, network(x, edges))


def test_the_mean_over_neighbours() -> None:
    x, edges = graph(isolated=1)
    torch.testing.assert_close(mean_aggregate(x, edges), dense(edges, len(x)) @ x)


def test_isolated_nodes_have_finite_outputs_and_gradients() -> None:
    torch.manual_seed(0)
    x, edges = graph(isolated=3)
    network = GraphNetwork(5, 4, 2, depth=6, own_weight=False).double()
    outputs = network(x, edges)
    outputs.square().sum().backward()
    assert outputs.isfinite().all() and all(w.grad.isfinite().all() for w in network.parameters() if w.requires_grad)


def test_batch_statistics_are_used_at_test_time_too() -> None:
    x, edges = graph()
    network = GraphNetwork(5, 4, 2, depth=3).double()
    torch.testing.assert_close(network.train()(x, edges), network.eval()(x, edges))


def test_without_w1_nothing_of_it_is_trained() -> None:
    network = GraphNetwork(5, 4, 2, depth=3, own_weight=False)
    trained = {name for name, weight in network.named_parameters() if weight.requires_grad}
    assert not any("lin_root" in name for name in trained) and any("lin_rel" in name for name in trained)


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(UserError, match="one layer"):
        GraphNetwork(5, 4, 2, depth=0)
