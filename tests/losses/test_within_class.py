"""The share of the variance within classes, against loops and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ood_nc.collapse import ClassStatistics, within_share
from ood_nc.errors import UserError
from ood_nc.losses import within_class_share

GENERATOR = torch.Generator().manual_seed(0)
FEATURES = torch.randn(30, 5, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.randint(0, 4, (30,), generator=GENERATOR)


def slow(rows: np.ndarray, labels: np.ndarray) -> float:
    mean = rows.mean(0)
    within = sum(((row - rows[labels == label].mean(0)) ** 2).sum() for row, label in zip(rows, labels, strict=True))
    return math.log(within / sum(((row - mean) ** 2).sum() for row in rows) + 1e-6)


def test_against_a_loop() -> None:
    expected = slow(FEATURES.numpy(), LABELS.numpy())
    assert within_class_share(FEATURES, LABELS).item() == pytest.approx(expected, rel=1e-12)
    assert within_class_share(FEATURES.float(), LABELS).item() == pytest.approx(expected, rel=1e-5)


def test_of_balanced_classes_it_is_the_metric() -> None:
    labels = torch.arange(30) % 3
    metric = within_share(ClassStatistics(3, 5).update(FEATURES, labels))
    assert within_class_share(FEATURES, labels).item() == pytest.approx(math.log(metric + 1e-6), rel=1e-9)


def test_shift_scale_and_rotation_do_not_matter() -> None:
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=GENERATOR, dtype=torch.float64))[0]
    expected = within_class_share(FEATURES, LABELS)
    for moved in (FEATURES * 1e-100, FEATURES * 1e100, FEATURES + 100, FEATURES @ rotation):
        torch.testing.assert_close(within_class_share(moved, LABELS), expected)


def test_of_soft_targets_the_heaviest_counts() -> None:
    soft = torch.nn.functional.one_hot(LABELS, 4) * 0.6 + 0.1
    assert within_class_share(FEATURES, soft) == within_class_share(FEATURES, LABELS)


def test_a_step_down_draws_classes_together_and_is_exact() -> None:
    leaf = FEATURES.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: within_class_share(rows, LABELS), leaf)
    (gradient,) = torch.autograd.grad(within_class_share(leaf, LABELS), leaf)
    assert within_class_share(FEATURES - 5 * gradient, LABELS) < within_class_share(FEATURES, LABELS) - 0.001


def test_without_a_pair_it_is_zero_with_a_graph() -> None:
    leaf = torch.randn(3, 2, requires_grad=True)
    for rows in (leaf, leaf[:0]):
        value = within_class_share(rows, torch.arange(len(rows)))
        assert value == 0
        value.backward()
    assert leaf.grad is not None and not leaf.grad.any()


def test_collapsed_classes_have_a_finite_value_and_no_gradient() -> None:
    leaf = torch.eye(3)[[0, 0, 1, 1, 2]].requires_grad_()
    value = within_class_share(leaf, torch.tensor([0, 0, 1, 1, 2]))
    value.backward()
    assert value.item() == pytest.approx(math.log(1e-6))
    assert leaf.grad is not None and leaf.grad.abs().max() < 1e-6


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="targets"):
        within_class_share(FEATURES, LABELS[:-1])
    with pytest.raises(UserError, match="floor"):
        within_class_share(FEATURES, LABELS, floor=0.0)
