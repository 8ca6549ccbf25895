from __future__ import annotations

import pytest
import torch

from ood_nc.errors import UserError
from ood_nc.graphs import BlockModel, propagate


def test_propagation_is_a_power_of_the_lazy_walk() -> None:
    graph = BlockModel(40, 2, 0.2, 0.1).sample(torch.Generator().manual_seed(0), dim=1)
    scores = torch.randn(42, dtype=torch.float64)  # two nodes without neighbours
    adjacency = torch.zeros(42, 42, dtype=torch.float64)
    adjacency[graph.edge_index[1], graph.edge_index[0]] = 1
    walk = adjacency / adjacency.sum(dim=1, keepdim=True).clamp(min=1)
    walk[adjacency.sum(dim=1) == 0] = torch.eye(42, dtype=torch.float64)[adjacency.sum(dim=1) == 0]
    lazy = 0.3 * torch.eye(42, dtype=torch.float64) + 0.7 * walk
    found = propagate(scores, graph.edge_index, steps=3, alpha=0.3)
    torch.testing.assert_close(found, torch.linalg.matrix_power(lazy, 3) @ scores)
    assert torch.equal(found[40:], scores[40:])


def test_no_step_changes_nothing_and_alpha_is_a_share() -> None:
    scores, edges = torch.tensor([1.0, 2.0]), torch.tensor([[0, 1], [1, 0]])
    assert torch.equal(propagate(scores, edges, steps=0), scores)
    with pytest.raises(UserError, match="alpha"):
        propagate(scores, edges, alpha=2)
