"""Running estimates against the full set they are meant to describe, and against closed forms."""

from __future__ import annotations

import io
import math

import pytest
import torch

from ood_nc.collapse import METRICS, ClassStatistics, Layer, RunningStatistics, remove_noise

CLASSES, DIM = 10, 24
NAMES = ["nc1_pinv", "nc1_ratio", "vci", "effective_rank"]


def drawn(count: int, seed: int, spread: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes of one anisotropic covariance around means that do not depend on the seed."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    scales = torch.linspace(0.5, 1.5, DIM) * spread
    return means[labels] + torch.randn(count, DIM, generator=generator) * scales, labels


def of_set(features: torch.Tensor, labels: torch.Tensor, name: str) -> float:
    return METRICS[name].compute(Layer(ClassStatistics(CLASSES, DIM).update(features, labels)))


@pytest.mark.parametrize("name", NAMES)
def test_of_the_full_set_in_one_batch_it_is_the_metric(name: str) -> None:
    features, labels = drawn(700, seed=0)
    running = RunningStatistics(labels.bincount(), DIM, horizon=math.inf)
    running.update(features, labels)
    running.fold()
    assert running.value(name) == pytest.approx(of_set(features, labels, name), rel=2e-5)


@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("name", NAMES)
def test_small_batches_tell_the_full_set(name: str, spread: float) -> None:
    full = of_set(*drawn(40_000, seed=1, spread=spread), name)
    running = RunningStatistics(torch.full((CLASSES,), 4000), DIM, horizon=600)
    for step in range(60):
        running.update(*drawn(40, seed=100 + step, spread=spread))
        running.fold()
    assert running.value(name) == pytest.approx(full, rel=0.15)


def test_noise_of_the_means_and_drift_are_no_collapse_and_no_variance() -> None:
    """NC1 in closed form: means move by far more than the classes are wide, and are each known from few samples."""
    generator = torch.Generator().manual_seed(3)
    means = torch.eye(CLASSES, dtype=torch.float64) - 1 / CLASSES
    spread, drift = 0.5, torch.randn(CLASSES, generator=generator, dtype=torch.float64)
    # Sigma_W is spread^2 I, M has CLASSES - 1 singular values 1: NC1 = (C - 1) spread^2.
    exact = (CLASSES - 1) * spread**2
    running = RunningStatistics(torch.full((CLASSES,), 10**6), CLASSES, horizon=800)
    pooled = ClassStatistics(CLASSES, CLASSES)
    for step in range(120):
        labels = torch.arange(20) % CLASSES
        noise = torch.randn(20, CLASSES, generator=generator, dtype=torch.float64) * spread
        rows = (means[labels] + noise + 0.3 * step * drift).float()
        running.update(rows, labels)
        running.fold()
        pooled.update(rows, labels)
    assert running.value("nc1_pinv") == pytest.approx(exact, rel=0.2)
    assert METRICS["nc1_pinv"].compute(Layer(pooled)) > 10 * exact


def test_noise_is_removed_from_means_in_expectation() -> None:
    generator = torch.Generator().manual_seed(4)
    for dim in (3, 30):
        truth = torch.randn(CLASSES, dim, generator=generator, dtype=torch.float64)
        scatter = []
        for _ in range(200):
            noisy = truth + 0.3 * torch.randn(CLASSES, dim, generator=generator, dtype=torch.float64)
            clean = remove_noise(noisy, 0.09 * torch.eye(dim, dtype=torch.float64))
            assert torch.allclose(clean.mean(0), noisy.mean(0))
            scatter.append((clean - clean.mean(0)).square().sum())
        expected = (truth - truth.mean(0)).square().sum()
        assert torch.stack(scatter).mean() == pytest.approx(float(expected), rel=0.02)


def test_a_batch_that_is_not_finite_leaves_no_trace() -> None:
    features, labels = drawn(80, seed=5)
    clean, spoiled = (RunningStatistics([10] * CLASSES, DIM, horizon=100) for _ in range(2))
    for bad in (math.nan, math.inf, 1e30):
        broken = features.clone()
        broken[3, 2] = bad
        spoiled.update(broken, labels)
    for running in (clean, spoiled):
        running.update(features, labels)
        running.fold()
    assert spoiled.value("nc1_pinv") == clean.value("nc1_pinv")


def test_it_is_ready_when_every_class_was_met() -> None:
    running = RunningStatistics([5, 5, 0], 2, horizon=100)
    running.update(torch.randn(2, 2), torch.tensor([0, 0]))
    running.fold()
    assert not running.ready
    running.update(torch.randn(2, 2), torch.tensor([1, 1]))
    assert not running.ready
    running.fold()
    assert running.ready


def test_it_goes_on_from_its_state_bit_for_bit() -> None:
    whole, first, second = (RunningStatistics([9] * CLASSES, DIM, horizon=90) for _ in range(3))
    for step in range(8):
        part = first if step < 5 else second
        for running in (whole, part):
            running.update(*drawn(50, seed=step))
            if step % 2:
                running.fold()
        if step == 4:  # between two folds
            buffer = io.BytesIO()
            torch.save(first.state_dict(), buffer)
            second.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
            for _ in range(2):  # the source goes on without the copy
                first.update(*drawn(50, seed=77))
    assert second.value("nc1_pinv") == whole.value("nc1_pinv")
