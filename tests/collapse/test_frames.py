from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ood_nc.collapse import (
    ClassStatistics,
    UndefinedMetricError,
    etf_floor,
    gnc2_frame,
    gnc2_margin,
    gnc2_uniformity,
    minority_classes,
    minority_collapse,
    nc2_etf,
    nc2_etf_means,
    nc2_seli,
    nearest_cosines,
    uniformity,
)
from ood_nc.errors import UserError


def of_means(means: np.ndarray) -> ClassStatistics:
    return ClassStatistics(*means.shape).update(means, np.arange(len(means)))


def etf(classes: int) -> np.ndarray:
    return math.sqrt(classes / (classes - 1)) * (np.eye(classes) - 1 / classes)


def polygon(classes: int) -> np.ndarray:
    angles = 2 * np.pi * np.arange(classes) / classes
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_a_simplex_etf_is_optimal_in_every_way() -> None:
    stats = of_means(etf(6))
    assert gnc2_frame(stats) == pytest.approx(0, abs=1e-6)
    assert gnc2_margin(stats) == pytest.approx(0, abs=1e-9)
    assert gnc2_uniformity(stats) == pytest.approx(0, abs=1e-6)
    assert uniformity(stats) == pytest.approx(-4 * 6 / 5, rel=1e-9)
    torch.testing.assert_close(nearest_cosines(stats), torch.full((6,), -0.2, dtype=torch.float64))


def test_more_classes_than_dimensions_are_measured_against_a_tight_frame() -> None:
    stats = of_means(polygon(7))
    assert gnc2_frame(stats) == pytest.approx(0, abs=1e-6)
    assert nc2_etf_means(stats) == pytest.approx(etf_floor(7, 2), rel=1e-6)
    assert gnc2_margin(stats) == pytest.approx(math.cos(2 * math.pi / 7), rel=1e-9)
    squashed = of_means(polygon(7) * [1, 0.2])
    assert gnc2_frame(squashed) > 0.5
    assert gnc2_frame(of_means(polygon(4))) == pytest.approx(0, abs=1e-6)
    assert gnc2_margin(of_means(polygon(4))) == pytest.approx(0, abs=1e-9)  # the orthoplex


def test_pairs_against_a_slow_loop() -> None:
    means = np.random.default_rng(0).normal(size=(5, 4))
    centred = means - means.mean(0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    pairs = [np.linalg.norm(unit[i] - unit[j]) for i in range(5) for j in range(5) if i != j]
    stats = of_means(means)
    assert uniformity(stats) == pytest.approx(np.log(np.mean(np.exp(-2 * np.square(pairs)))), rel=1e-9)
    assert gnc2_uniformity(stats) == pytest.approx(np.std(np.log(pairs)) / abs(np.mean(np.log(pairs))), rel=1e-6)


def test_the_floor() -> None:
    assert etf_floor(5, 4) == 0
    assert etf_floor(101, 25) == pytest.approx(math.sqrt(2 - 2 * 0.5))
    with pytest.raises(UserError, match="at least 2 classes"):
        etf_floor(1, 3)


def test_undefined() -> None:
    with pytest.raises(UndefinedMetricError, match="3 classes"):
        gnc2_uniformity(of_means(np.eye(2)))
    with pytest.raises(UndefinedMetricError, match="same direction"):
        gnc2_uniformity(of_means(np.array([[1.0, 0], [2, 0], [-3, 1], [0, -1]])))


def imbalanced() -> ClassStatistics:
    counts = [100, 100, 5, 5]
    labels = np.repeat(np.arange(4), counts)
    return ClassStatistics(4, 3).update(np.random.default_rng(0).normal(size=(210, 3)), labels)


def test_minority_collapse_is_the_mean_cosine_of_the_minority_rows() -> None:
    stats = imbalanced()
    assert minority_classes(stats).tolist() == [2, 3]
    weight = np.random.default_rng(1).normal(size=(4, 3))
    a, b = weight[2], weight[3]
    assert minority_collapse(stats, weight) == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), rel=1e-12)
    assert minority_collapse(stats, np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 2], [0, 0, 5]])) == pytest.approx(1)
    with pytest.raises(UndefinedMetricError, match="no direction"):
        minority_collapse(stats, np.zeros((4, 3)))
    with pytest.raises(UndefinedMetricError, match="needs 2 classes"):
        minority_collapse(of_means(np.eye(4)), np.eye(4))


def test_the_imbalanced_optimum() -> None:
    weight = np.random.default_rng(2).normal(size=(4, 4))
    assert nc2_seli(of_means(np.eye(4)), weight) == pytest.approx(nc2_etf(weight), rel=1e-9)
    counts = np.array([100, 100, 5, 5])
    encoded = (np.eye(4) - 1 / 4) * np.sqrt(counts)
    left, lengths, _ = np.linalg.svd(encoded)
    root = left * np.sqrt(lengths)  # W W' = V L V'
    assert nc2_seli(imbalanced(), root[:, :3]) == pytest.approx(0, abs=1e-6)
    with pytest.raises(UndefinedMetricError, match="weight is 0"):
        nc2_seli(imbalanced(), np.zeros((4, 3)))
