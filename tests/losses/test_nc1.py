"""NC1 of a batch as a loss, against the metric, loops in float64 and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ood_nc.errors import UserError
from ood_nc.losses import log_nc1

CLASSES = 4
GENERATOR = torch.Generator().manual_seed(0)
LABELS = torch.randint(0, CLASSES, (40,), generator=GENERATOR)
FEATURES = torch.randn(CLASSES, 6, generator=GENERATOR, dtype=torch.float64)[LABELS] + 0.3 * torch.randn(
    40, 6, generator=GENERATOR, dtype=torch.float64
)


def slow(rows: np.ndarray, labels: np.ndarray) -> float:
    """tr(Sigma_W Sigma_B^+) / C with N - C degrees of freedom, and the correction."""
    names = sorted(set(labels))
    means = np.stack([rows[labels == name].mean(0) for name in names])
    within = sum((rows[labels == n] - m).T @ (rows[labels == n] - m) for n, m in zip(names, means, strict=True))
    centered = means - means.mean(0)
    classes, size = len(names), len(rows)
    between = centered.T @ centered / classes
    value = np.trace(within / (size - classes) @ np.linalg.pinv(between, rcond=1e-10)) / classes
    return math.log(value / (1 - value / (min(classes - 1, rows.shape[1]) * size / classes**2)))


@pytest.mark.parametrize("columns", [2, 6])  # fewer than classes, and more
def test_against_a_loop(columns: int) -> None:
    rows = FEATURES[:, :columns].contiguous()
    assert slow(rows.numpy(), LABELS.numpy()) < 2  # not where the correction ends
    expected = pytest.approx(slow(rows.numpy(), LABELS.numpy()), abs=1e-5)
    ridge = 1e-9
    if columns == 6:
        assert log_nc1(rows, LABELS, ridge=ridge).item() == expected
        assert log_nc1(rows.float(), LABELS).item() == pytest.approx(expected.expected, abs=0.05)
    assert log_nc1(rows, LABELS, ridge=ridge).item() == expected


def test_small_batches_tell_the_full_set() -> None:
    """Isotropic classes of width w on a simplex: NC1 is (C - 1) w^2, and the batches' mean is not far above it."""
    means = torch.eye(CLASSES, 6, dtype=torch.float64) - torch.eye(CLASSES, 6, dtype=torch.float64).mean(0)
    for width, images, near in ((0.2, 24, 0.1), (0.5, 48, 0.2)):
        exact = math.log((CLASSES - 1) * width**2)
        values = []
        for _ in range(200):
            labels = torch.arange(images) % CLASSES
            rows = means[labels] + width * torch.randn(images, 6, generator=GENERATOR, dtype=torch.float64)
            values.append(log_nc1(rows, labels).item())
        assert sum(values) / len(values) == pytest.approx(exact, abs=near)


def test_shift_scale_and_rotation_do_not_matter() -> None:
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=GENERATOR, dtype=torch.float64))[0]
    expected = log_nc1(FEATURES, LABELS)
    for moved in (FEATURES * 1e-100, FEATURES * 1e100, FEATURES + 100, FEATURES @ rotation):
        torch.testing.assert_close(log_nc1(moved, LABELS), expected)


def test_its_gradient_is_exact_and_a_step_down_collapses() -> None:
    leaf = FEATURES.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: log_nc1(rows * 3, LABELS, ridge=1e-9), leaf)
    (gradient,) = torch.autograd.grad(log_nc1(leaf, LABELS), leaf)
    assert log_nc1(FEATURES - 0.1 * gradient, LABELS) < log_nc1(FEATURES, LABELS) - 0.001


def test_of_soft_targets_the_heaviest_counts() -> None:
    soft = torch.nn.functional.one_hot(LABELS, CLASSES) * 0.6 + 0.1
    assert log_nc1(FEATURES, soft) == log_nc1(FEATURES, LABELS)


def test_without_a_pair_or_a_second_class_it_is_zero_with_a_graph() -> None:
    leaf = torch.randn(3, 2, requires_grad=True)
    for rows, labels in ((leaf, torch.arange(3)), (leaf, torch.zeros(3)), (leaf[:0], torch.arange(0))):
        value = log_nc1(rows, labels.long())
        assert value == 0
        value.backward()
    assert leaf.grad is not None and not leaf.grad.any()


def test_collapsed_and_equal_features_have_a_finite_value_and_gradient() -> None:
    for rows in (torch.eye(3)[[0, 0, 1, 1, 2]], torch.ones(5, 3)):
        leaf = rows.clone().requires_grad_()
        value = log_nc1(leaf, torch.tensor([0, 0, 1, 1, 2]))
        value.backward()
        assert math.isfinite(value.item()) and leaf.grad is not None and leaf.grad.isfinite().all()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="targets"):
        log_nc1(FEATURES, LABELS[:-1])
    with pytest.raises(UserError, match="ridge"):
        log_nc1(FEATURES, LABELS, ridge=0.0)
