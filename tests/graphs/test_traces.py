from __future__ import annotations

import pytest
import torch

from ood_nc.collapse import ClassStatistics
from ood_nc.graphs import BlockModel, trace_bounds


@pytest.mark.parametrize("communities", [2, 3])
def test_predictions_against_the_expected_graph(communities: int) -> None:
    torch.manual_seed(0)
    model = BlockModel(12 * communities, communities, 0.4, 0.1)
    n, nodes = model.community_size, model.nodes
    labels = torch.arange(communities).repeat_interleave(n)
    same = (labels[:, None] == labels).double()
    average = torch.where(same > 0, 0.4, 0.1).double() / (n * (0.4 + (communities - 1) * 0.1))
    own, neighbours = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    means, root = torch.randn(communities, 5, dtype=torch.float64), torch.randn(5, 5, dtype=torch.float64)
    # The covariances of the population, and the mean over draws of the spread about the population's class means.
    stats = ClassStatistics(communities, 5, exact=True)
    corners = torch.cat([torch.eye(5), -torch.eye(5)]).double() * 5**0.5 @ root
    for label in range(communities):
        stats.update(means[label] + corners, torch.full((10,), label))
    between, within = trace_bounds(model, stats, own, neighbours)

    def layer(x: torch.Tensor) -> torch.Tensor:
        return x @ own.T + average @ x @ neighbours.T

    moved = layer(means[labels])
    centred = moved.view(communities, n, 4).mean(dim=1)
    centred = centred - centred.mean(dim=0)
    assert between.predicted == pytest.approx(float(centred.square().sum() / communities / stats.between.trace()))
    draws = torch.randn(4000, nodes, 5, dtype=torch.float64) @ root
    spread = float(layer(draws).square().sum() / (4000 * nodes))
    assert within.predicted == pytest.approx(spread / float(stats.within.trace()), rel=0.02)
    for bound in (between, within):
        assert bound.low <= bound.predicted <= bound.high


def test_the_bounds_are_reached_by_turning_the_features() -> None:
    model = BlockModel(20, 2, 0.4, 0.1)
    weight = torch.diag(torch.tensor([3.0, 1.0]))
    wide = [torch.tensor([[a, 0.0], [-a, 0.0], [0.0, b], [0.0, -b]]) for a, b in ((2.0, 1.0), (1.0, 2.0))]
    labels = torch.zeros(4, dtype=torch.long)
    aligned, crossed = (trace_bounds(model, ClassStatistics(1, 2).update(x, labels), weight, weight)[1] for x in wide)
    assert aligned.predicted == pytest.approx(aligned.high) and crossed.predicted == pytest.approx(crossed.low)
