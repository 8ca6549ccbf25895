from __future__ import annotations

import itertools
import math

import pytest
import torch

from ood_nc.errors import UserError
from ood_nc.graphs import (
    BlockModel,
    condition_c_deviation,
    condition_c_graph,
    probability_bound,
    probability_exact,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("size", "inside", "across"), [(10, 3, 2), (11, 4, 1), (8, 0, 8), (6, 5, 0)])
def test_generated_graphs_satisfy_it_exactly(size: int, inside: int, across: int) -> None:
    graph = condition_c_graph(size, 3, inside, across, generator(), dim=2)
    assert condition_c_deviation(graph.edge_index, graph.y) == 0
    source, target = graph.edge_index
    pairs = set(zip(source.tolist(), target.tolist(), strict=True))
    assert pairs == {(b, a) for a, b in pairs} and all(a != b for a, b in pairs)
    assert target.bincount(minlength=3 * size).tolist() == [inside + 2 * across] * (3 * size) or not len(pairs)


def test_graphs_differ_between_draws() -> None:
    first, second = (condition_c_graph(12, 2, 4, 3, generator(seed), dim=1) for seed in (0, 1))
    assert not torch.equal(first.edge_index, second.edge_index)


def test_the_deviation_against_a_slow_count() -> None:
    graph = BlockModel(30, 3, 0.3, 0.1).sample(generator(), dim=1)
    neighbours = {node: [] for node in range(30)}
    for a, b in graph.edge_index.T.tolist():
        neighbours[a].append(int(graph.y[b]))
    shares = [[near.count(c) / max(len(near), 1) for c in range(3)] for near in neighbours.values()]
    worst = max(
        abs(shares[i][c] - shares[j][c])
        for i, j in itertools.combinations(range(30), 2)
        if graph.y[i] == graph.y[j]
        for c in range(3)
    )
    assert condition_c_deviation(graph.edge_index, graph.y) == pytest.approx(worst)


def test_a_graph_that_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="even number inside"):
        condition_c_graph(5, 2, 3, 1, generator(), dim=1)


def test_the_exact_probability_against_sampling() -> None:
    model = BlockModel(6, 2, 0.6, 0.3)
    graphs = [model.sample(generator(seed), dim=1) for seed in range(800)]
    share = sum(condition_c_deviation(graph.edge_index, graph.y) < 1e-12 for graph in graphs) / len(graphs)
    exact = probability_exact(3, 2, 0.6, 0.3)
    assert share == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / len(graphs)))


@pytest.mark.parametrize(("p", "q"), [(0.5, 0.25), (0.3, 0.6), (0.9, 0.5), (1, 1), (0, 0)])
@pytest.mark.parametrize(("size", "communities"), [(2, 2), (3, 2), (2, 3)])
def test_the_bound_holds(size: int, communities: int, p: float, q: float) -> None:
    assert 10 ** probability_bound(size, communities, p, q) >= probability_exact(size, communities, p, q) - 1e-12


def test_the_bound_vanishes_with_size_also_for_sparse_graphs() -> None:
    sizes = (50, 100, 200, 400)
    found = [probability_bound(n, 2, 5 * math.log(n) / n, math.log(n) / n) for n in sizes]
    assert found == sorted(found, reverse=True) and found[-1] < -100


def test_larger_graphs_are_not_enumerated() -> None:
    with pytest.raises(UserError, match="at most 6"):
        probability_exact(4, 2, 0.5, 0.5)
