from __future__ import annotations

import pytest
import torch

from ood_nc.graphs import BlockModel, condition_c_graph, fit_gufm
from ood_nc.graphs.gufm import Gufm, GufmState
from ood_nc.graphs.measurement import measure_features


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def small(own_weight: bool = True) -> tuple[Gufm, GufmState]:
    graph = BlockModel(20, 2, 0.5, 0.2).sample(generator(), dim=1)
    model = Gufm(graph.edge_index, graph.y, own_weight=own_weight)
    return model, model.start(4, generator())


def test_the_gradient_is_that_of_the_loss_as_written() -> None:
    model, start = small()
    h, w1, w2 = (part.clone().requires_grad_() for part in start)
    residual = h @ w1.T + model.averages @ h @ w2.T - model.targets
    loss = residual.square().sum() / 40 + 0.0025 * sum(part.square().sum() for part in (h, w1, w2))
    assert model.loss(start) == pytest.approx(loss.item())
    for found, expected in zip(model.gradient(start), torch.autograd.grad(loss, (h, w1, w2)), strict=True):
        torch.testing.assert_close(found, expected)


def test_without_w1_it_stays_zero() -> None:
    model, start = small(own_weight=False)
    (end,) = fit_gufm(model, start, [5])
    assert not end.own.any() and model.loss(end) < model.loss(start)


def test_flow_and_small_steps_of_descent_agree() -> None:
    model, start = small()
    (flow,), (descent,) = fit_gufm(model, start, [20], method="flow"), fit_gufm(model, start, [20], lr=0.02)
    torch.testing.assert_close(flow.features, descent.features, atol=1e-2, rtol=0)


@pytest.mark.parametrize("own_weight", [True, False])
def test_condition_c_graphs_collapse_and_ordinary_ones_do_not(own_weight: bool) -> None:
    found = {}
    graphs = {
        "regular": condition_c_graph(10, 2, 4, 2, generator(), dim=1),
        "ordinary": BlockModel(20, 2, 0.4, 0.2).sample(generator(), dim=1),
    }
    for name, graph in graphs.items():
        model = Gufm(graph.edge_index, graph.y, own_weight=own_weight)
        middle, end = fit_gufm(model, model.start(4, generator()), [1000, 1500], method="flow")
        assert max(part.abs().max() for part in model.gradient(end)) < 1e-3
        found[name] = [measure_features(state.features, graph.y)["nc1_ratio"] for state in (middle, end)]
    assert found["regular"][1] < 1e-5 and found["regular"][1] < 0.1 * found["regular"][0]
    assert found["ordinary"][1] > 1e-3 and found["ordinary"][1] > 0.5 * found["ordinary"][0]
