from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from ood_nc.collapse import UndefinedMetricError, entropy_full, entropy_nn
from ood_nc.errors import UserError
from ood_nc.losses import nearest_neighbor_entropy


def sphere(n: int, d: int, seed: int = 0) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(n, d))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def test_it_is_minus_the_entropy_loss() -> None:
    features = np.random.default_rng(0).normal(size=(60, 5)) + 0.5
    loss = nearest_neighbor_entropy(torch.from_numpy(features))
    assert entropy_nn(features) == pytest.approx(-float(loss), rel=1e-9)


@pytest.mark.parametrize(
    ("features", "value"),
    [([[1.0, 0], [-1, 0]], math.log(2)), ([[1.0, 0], [0, 1]], 0.5 * math.log(2)), ([[2.0, 0], [-3, 0]], math.log(2))],
)
def test_closed_forms(features: list, value: float) -> None:
    assert entropy_nn(np.array(features)) == pytest.approx(value, abs=1e-7)


@pytest.mark.parametrize("dim", [3, 4])
def test_the_uniform_sphere_has_the_log_of_its_area(dim: int) -> None:
    area = math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)
    assert entropy_full(sphere(4000, dim)) == pytest.approx(area, abs=0.05)


def test_the_gaussian_has_its_entropy() -> None:
    features = np.random.default_rng(1).normal(size=(4000, 3))
    assert entropy_full(features, on_sphere=False) == pytest.approx(1.5 * math.log(2 * math.pi * math.e), abs=0.06)


def test_the_neighbour_is_that_of_a_slow_search_whatever_the_offset() -> None:
    features = sphere(80, 4)
    distances = np.linalg.norm(features[:, None] - features[None], axis=2) + np.diag(np.full(80, np.inf))
    expected = 4 * np.log(distances.min(1)).mean() + math.log(math.pi**2 / 2) + sum(1 / k for k in range(1, 80))
    assert entropy_full(features, on_sphere=False) == pytest.approx(expected, rel=1e-10)
    assert entropy_full(features + 1e4, on_sphere=False) == pytest.approx(expected, rel=1e-7)


def test_a_subset_is_seeded_and_of_the_size_asked_for() -> None:
    features = sphere(100, 3)
    assert entropy_nn(features, max_samples=20, seed=1) == entropy_nn(features, max_samples=20, seed=1)
    assert entropy_nn(features, max_samples=20, seed=1) != entropy_nn(features, max_samples=20, seed=2)
    assert entropy_nn(features, max_samples=20) > entropy_nn(features)
    assert entropy_nn(features, max_samples=100) == entropy_nn(features)


def test_undefined() -> None:
    with pytest.raises(UndefinedMetricError, match="at least 2"):
        entropy_nn(np.ones((1, 3)))
    with pytest.raises(UndefinedMetricError, match="equal"):
        entropy_full(np.ones((3, 2)))


def slow_nn(features: np.ndarray) -> float:
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-8)
    total = 0.0
    for i, point in enumerate(unit):
        others = [j for j in range(len(unit)) if j != i]
        nearest = max(others, key=lambda j: point @ unit[j])
        total += math.log(np.linalg.norm(point - unit[nearest] + 1e-8) + 1e-8)
    return total / len(unit)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_it_is_that_of_a_slow_loop(dtype: type) -> None:
    features = (np.random.default_rng(3).normal(size=(50, 4)) * 3 + 1).astype(dtype)
    before = features.copy()
    assert entropy_nn(features) == pytest.approx(slow_nn(features.astype(float)), rel=1e-9)
    assert entropy_nn(torch.from_numpy(features)) == entropy_nn(features)
    assert np.array_equal(features, before)


def test_more_rows_than_a_block_find_the_neighbours_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    features = sphere(70, 3)
    whole = entropy_nn(features)
    monkeypatch.setattr("ood_nc.collapse._common._BLOCK_ELEMENTS", 300)
    assert entropy_nn(features) == pytest.approx(whole, rel=1e-12)


def test_rows_of_zeros_and_equal_rows_stay_finite() -> None:
    assert entropy_nn(np.zeros((3, 4))) == pytest.approx(math.log(2e-8 + 1e-8), abs=1e-6)
    assert math.isfinite(entropy_nn(np.ones((5, 4))))


@pytest.mark.parametrize("function", [entropy_nn, entropy_full])
def test_a_subset_without_a_neighbour_and_values_that_are_not_finite_are_refused(function: Callable) -> None:
    for size in (1, 0, -3):
        with pytest.raises(UserError, match="max_samples must be at least 2"):
            function(sphere(9, 3), max_samples=size)
    features = sphere(9, 3)
    features[4, 1] = np.nan
    with pytest.raises(UserError, match="row 4"):
        function(features)
