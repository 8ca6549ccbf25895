from __future__ import annotations

import itertools

import pytest
import torch

from ood_nc.graphs import overlap, permutation_mse
from ood_nc.graphs.objective import accuracy, match_labels


def draw(classes: int = 4, nodes: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(classes)
    labels = torch.randint(0, classes, (nodes,), generator=generator)
    return torch.randn(nodes, classes, generator=generator), labels


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_loss_is_the_smallest_over_all_permutations(classes: int) -> None:
    outputs, labels = draw(classes)
    losses = [
        float((outputs - torch.eye(classes)[torch.tensor(order)[labels]]).square().sum() / (2 * len(labels)))
        for order in itertools.permutations(range(classes))
    ]
    assert float(permutation_mse(outputs, labels)) == pytest.approx(min(losses), rel=1e-5)


def test_loss_and_overlap_do_not_change_under_relabelling() -> None:
    outputs, labels = draw()
    predictions = outputs.argmax(dim=1)
    for order in itertools.permutations(range(4)):
        renamed = torch.tensor(order)[labels]
        assert overlap(predictions, renamed, 4) == pytest.approx(overlap(predictions, labels, 4))
        assert overlap(torch.tensor(order)[predictions], labels, 4) == pytest.approx(overlap(predictions, labels, 4))
        torch.testing.assert_close(permutation_mse(outputs, renamed), permutation_mse(outputs, labels))
        assert torch.equal(match_labels(outputs, renamed), match_labels(outputs, labels))


def test_overlap_is_one_for_recovery_and_zero_for_one_guess() -> None:
    labels = torch.arange(4).repeat(5)
    assert overlap((labels + 1) % 4, labels, 4) == 1
    assert overlap(torch.zeros_like(labels), labels, 4) == pytest.approx(0)
    assert accuracy(torch.zeros_like(labels), labels, 4) == 0.25


def test_the_gradient_is_that_of_the_mean_squared_error() -> None:
    outputs, labels = draw()
    outputs.requires_grad_()
    permutation_mse(outputs, labels).backward()
    expected = (outputs - torch.eye(4)[match_labels(outputs, labels)]) / len(labels)
    torch.testing.assert_close(outputs.grad, expected.detach())
