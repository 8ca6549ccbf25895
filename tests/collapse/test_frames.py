from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from ood_nc.collapse import (
    ClassStatistics,
    UndefinedMetricError,
    etf_floor,
    gnc2_frame,
    gnc2_frame_head,
    gnc2_margin,
    gnc2_margin_head,
    gnc2_uniformity,
    gnc2_uniformity_head,
    nc2_etf_means,
    nearest_cosines,
    uniformity,
    uniformity_head,
)
from ood_nc.collapse._pairs import DirectionSummary
from ood_nc.collapse.frames import log_variation
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


def test_both_centres_against_a_slow_loop() -> None:
    rng = np.random.default_rng(4)
    labels = np.repeat(np.arange(4), [40, 10, 6, 4])
    features = rng.normal(size=(4, 5))[labels] + rng.normal(size=(60, 5))
    means = np.stack([features[labels == c].mean(0) for c in range(4)])
    stats = ClassStatistics(4, 5).update(features, labels)
    for center, origin in (("classes", means.mean(0)), ("samples", features.mean(0))):
        unit = [(mean - origin) / np.linalg.norm(mean - origin) for mean in means]
        closest = [max(unit[i] @ unit[j] for j in range(4) if j != i) for i in range(4)]
        np.testing.assert_allclose(nearest_cosines(stats, center).numpy(), closest, rtol=1e-9)
        assert gnc2_margin(stats, center) == pytest.approx(np.mean(closest) + 1 / 3, rel=1e-9)


def test_the_frame_distance_with_many_classes_is_that_of_a_slow_computation() -> None:
    means = np.random.default_rng(5).normal(size=(9, 3))
    centred = means - means.mean(0)
    frame = sum(np.outer(row, row) for row in centred)
    expected = np.linalg.norm(frame / np.linalg.norm(frame) - np.eye(3) / math.sqrt(3))
    assert gnc2_frame(of_means(means)) == pytest.approx(expected, rel=1e-10)


def test_the_floor_is_a_lower_bound_of_the_distance_from_the_etf() -> None:
    rng = np.random.default_rng(6)
    assert min(nc2_etf_means(of_means(rng.normal(size=(8, 3)))) for _ in range(20)) >= etf_floor(8, 3)


def test_classes_without_samples_are_left_out() -> None:
    means = np.random.default_rng(7).normal(size=(5, 6))
    sparse = ClassStatistics(9, 6).update(means, [0, 2, 3, 7, 8])
    for metric in (gnc2_frame, gnc2_margin, gnc2_uniformity, uniformity):
        assert metric(sparse) == pytest.approx(metric(of_means(means)), rel=1e-12)


def test_distances_whose_logs_cancel_leave_the_variation_undefined() -> None:
    with pytest.raises(UndefinedMetricError, match="log distance is 0"):
        log_variation(DirectionSummary(0.0, torch.zeros(3), 0.0, 0.1, 0.0))


@pytest.mark.parametrize("metric", [gnc2_frame, gnc2_margin, gnc2_uniformity, uniformity, nearest_cosines])
def test_one_class_is_undefined(metric: Callable) -> None:
    with pytest.raises(UndefinedMetricError, match="2 classes"):
        metric(of_means(np.ones((1, 3))))


@pytest.mark.parametrize("dim", [3, 20])
def test_blocks_of_pairs_change_no_value(dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stats = of_means(np.random.default_rng(8).normal(size=(12, dim)))
    metrics = (gnc2_frame, gnc2_margin, gnc2_uniformity, uniformity, nc2_etf_means)
    whole = [metric(stats) for metric in metrics]
    monkeypatch.setattr("ood_nc.collapse._common._BLOCK_ELEMENTS", 60)
    assert [metric(stats) for metric in metrics] == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize(("classes", "dim"), [(5, 7), (9, 4)])
def test_a_head_is_measured_by_its_rows_as_they_are(classes: int, dim: int) -> None:
    head = np.random.default_rng(classes).normal(size=(classes, dim)) + 0.5
    unit = head / np.linalg.norm(head, axis=1, keepdims=True)
    pairs = ~np.eye(classes, dtype=bool)
    distances = np.linalg.norm(unit[:, None] - unit, axis=2)[pairs]
    logs = np.log(distances)
    assert gnc2_uniformity_head(head) == pytest.approx(logs.std() / abs(logs.mean()), rel=1e-9)
    assert uniformity_head(head) == pytest.approx(np.log(np.exp(-2 * distances**2).mean()), rel=1e-9)
    closest = (unit @ unit.T - 2 * np.eye(classes)).max(axis=1)
    best = -1 / (classes - 1) if classes <= dim + 1 else 0
    assert gnc2_margin_head(head) == pytest.approx(closest.mean() - best, rel=1e-9)
    if classes <= dim + 1:
        gram, ideal = head @ head.T, (np.eye(classes) - 1 / classes) / np.sqrt(classes - 1)
    else:
        gram, ideal = head.T @ head, np.eye(dim) / np.sqrt(dim)
    assert gnc2_frame_head(head) == pytest.approx(np.linalg.norm(gram / np.linalg.norm(gram) - ideal), rel=1e-9)


def test_a_head_of_a_tight_frame_is_optimal() -> None:
    assert gnc2_frame_head(polygon(7)) == pytest.approx(0, abs=1e-6)
    assert gnc2_margin_head(polygon(4)) == pytest.approx(0, abs=1e-9)
    assert gnc2_uniformity_head(etf(5)) == pytest.approx(0, abs=1e-6)
    assert uniformity_head(etf(5)) == pytest.approx(-5, rel=1e-9)
    for metric in (gnc2_margin_head, gnc2_uniformity_head, uniformity_head):
        with pytest.raises(UndefinedMetricError, match="a row of the weight is 0"):
            metric([[1.0, 0], [0, 0], [0, 1]])
