from __future__ import annotations

import math

import pytest
import torch

from ood_nc.errors import UserError
from ood_nc.graphs import SETTINGS, BlockModel


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def realised(model: BlockModel, graphs: int) -> tuple[float, float]:
    inside = across = 0
    for seed in range(graphs):
        graph = model.sample(generator(seed), dim=1)
        same = graph.y[graph.edge_index[0]] == graph.y[graph.edge_index[1]]
        inside, across = inside + int(same.sum()), across + int((~same).sum())
    n, communities = model.community_size, model.communities
    pairs = graphs * communities * n
    return inside / (pairs * (n - 1)), across / (pairs * (communities - 1) * n)


@pytest.mark.parametrize("name", ["c2-n1000", "c4-n1000", "c2-n1000-heterophilic"])
def test_graphs_have_the_stated_p_and_q_within_three_percent(name: str) -> None:
    p, q = realised(SETTINGS[name], 8)
    assert p == pytest.approx(SETTINGS[name].p, rel=0.03) and q == pytest.approx(SETTINGS[name].q, rel=0.03)


def test_the_papers_code_draws_pairs_twice() -> None:
    model = BlockModel(400, 2, 0.2, 0.1, draw="paper")
    assert model.realised == pytest.approx((0.36, 0.19))
    assert realised(model, 4) == pytest.approx((0.36, 0.19), rel=0.03)


def test_edges_go_both_ways_without_loops() -> None:
    edges = BlockModel(60, 3, 0.3, 0.1).sample(generator(), dim=2).edge_index
    pairs = set(map(tuple, edges.T.tolist()))
    assert pairs == {(b, a) for a, b in pairs} and all(a != b for a, b in pairs)


def test_the_recovery_margin_of_the_papers_settings() -> None:
    a, b = (value * 1000 / math.log(1000) for value in (0.025, 0.0017))
    assert SETTINGS["c2-n1000"].recovery_margin == pytest.approx(math.sqrt(a) - math.sqrt(b) - math.sqrt(2))
    assert SETTINGS["c2-n1500"].recovery_margin + math.sqrt(2) == pytest.approx(1.425, abs=1e-3)
    twice = BlockModel(1000, 2, 0.025, 0.0017, draw="paper").recovery_margin + math.sqrt(2)
    assert twice == pytest.approx(1.97, abs=0.01)


def test_held_out_and_swapped_nodes_are_joined_as_told() -> None:
    model = BlockModel(400, 2, 0.3, 0.05)
    graph = model.sample(generator(), dim=1, held_out=True, swapped=0.2)
    assert graph.y.bincount().tolist() == [200, 200, 200]
    assert graph.swapped[graph.y < 2].sum() == 80 and not graph.swapped[graph.y == 2].any()
    adjacency = torch.zeros(600, 600).index_put_(tuple(graph.edge_index), torch.tensor(1.0))
    usual = (graph.y == 0) & ~graph.swapped
    assert adjacency[graph.swapped & (graph.y == 0)][:, usual].mean() == pytest.approx(0.05, rel=0.1)
    assert adjacency[graph.swapped & (graph.y == 0)][:, graph.y == 1].mean() == pytest.approx(0.3, rel=0.1)
    assert adjacency[graph.y == 2][:, usual].mean() == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize("values", [(10, 3, 0.5, 0.5), (4, 1, 0.5, 0.5), (4, 2, 1.5, 0.5), (4, 2, 0.0, 0.0)])
def test_a_model_that_cannot_be_is_refused(values: tuple[int, int, float, float]) -> None:
    with pytest.raises(UserError):
        BlockModel(*values)
