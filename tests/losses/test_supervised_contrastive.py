"""The supervised contrastive loss against loops over anchors, positives and the rest."""

from __future__ import annotations

import math

import pytest
import torch

from ood_nc.errors import UserError
from ood_nc.losses import LOSSES, Batch, Objective, Term, check_loss, supervised_contrastive


def slow(features: torch.Tensor, labels: list[int], temperature: float) -> float:
    rows = [[value / math.hypot(*row) for value in row] for row in features.tolist()]

    def similar(i: int, j: int) -> float:
        return sum(a * b for a, b in zip(rows[i], rows[j], strict=True)) / temperature

    found = []
    for i, label in enumerate(labels):
        positives = [j for j, other in enumerate(labels) if other == label and j != i]
        if positives:
            rest = sum(math.exp(similar(i, a)) for a in range(len(rows)) if a != i)
            found.append(-sum(math.log(math.exp(similar(i, p)) / rest) for p in positives) / len(positives))
    return sum(found) / len(found)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_it_is_the_slow_loop_whatever_the_length_of_a_row(temperature: float) -> None:
    features = torch.randn(11, 4, dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 1, 3])  # one image is alone in its class
    batch = Batch(features, labels)
    expected = slow(features, labels.tolist(), temperature)
    assert float(supervised_contrastive(features, batch, temperature=temperature)) == pytest.approx(expected, rel=1e-12)
    longer = features * torch.rand(11, 1, dtype=torch.float64).add(0.1)
    assert float(supervised_contrastive(longer, batch, temperature=temperature)) == pytest.approx(expected, rel=1e-12)


def test_its_gradient_is_that_of_differences() -> None:
    features = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    batch = Batch(features.detach(), torch.tensor([0, 0, 1, 1, 1, 2]))
    assert torch.autograd.gradcheck(lambda rows: supervised_contrastive(rows, batch), (features,))


def test_no_pair_of_a_class_is_zero_with_a_graph() -> None:
    features = torch.randn(3, 2, requires_grad=True)
    value = supervised_contrastive(features, Batch(features.detach(), torch.arange(3)))
    value.backward()
    assert value.item() == 0
    assert features.grad is not None and not features.grad.any()


def test_it_keeps_the_protocol() -> None:
    check_loss("supervised_contrastive")


def test_it_is_a_term_of_the_objective() -> None:
    features, labels = torch.randn(6, 3, dtype=torch.float64), torch.arange(6) % 2
    term = Term("supervised_contrastive", "encoder", 0.5, {"temperature": 0.2})
    objective = Objective(smoothing=0.0, entropy_weights={}, terms=[term])
    loss, parts = objective(features, labels, {"encoder": features})
    expected = torch.nn.functional.cross_entropy(features, labels) + 0.5 * slow(features, labels.tolist(), 0.2)
    assert float(loss) == pytest.approx(float(expected), rel=1e-12)
    assert set(parts) == {"task", "supervised_contrastive/encoder"}


def test_a_temperature_of_zero_is_one_line() -> None:
    with pytest.raises(UserError, match="must be positive"):
        supervised_contrastive(torch.eye(2), Batch(torch.eye(2), torch.tensor([0, 0])), temperature=0)


@pytest.mark.parametrize("name", ["supervised_contrastive", "within_class", "nc1"])
def test_images_with_several_labels_have_no_one_class(name: str) -> None:
    rows, loss = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), LOSSES[name]
    sets = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 1]])
    with pytest.raises(UserError, match=r"^An image has several labels: this loss needs images of one class each"):
        loss(rows, Batch(rows, sets))
    mixed = torch.tensor([[0.7, 0.3, 0], [0.1, 0.9, 0], [1, 0, 0], [0.4, 0.6, 0]])
    torch.testing.assert_close(loss(rows, Batch(rows, mixed)), loss(rows, Batch(rows, torch.tensor([0, 1, 0, 1]))))
