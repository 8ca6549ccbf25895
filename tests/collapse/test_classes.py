"""Collapse by class and by pair against loops over the definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ood_nc.collapse import (
    ClassStatistics,
    UndefinedMetricError,
    cdnv,
    confused_pairs,
    measure_classes,
    nc3_alignment,
)
from ood_nc.errors import UserError


def problem(classes: int, dim: int, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, n)])
    return rng.normal(size=(classes, dim))[labels] + 0.3 * rng.normal(size=(len(labels), dim)), labels


def slow_pairs(h: np.ndarray, y: np.ndarray) -> list[tuple[float, int, int]]:
    means = {c: h[y == c].mean(axis=0) for c in np.unique(y)}
    variances = {c: ((h[y == c] - means[c]) ** 2).sum(axis=1).mean() for c in means}
    pairs = []
    for i in means:
        for j in means:
            if i < j:
                distance = ((means[i] - means[j]) ** 2).sum()
                pairs.append(((variances[i] + variances[j]) / (2 * distance), int(i), int(j)))
    return sorted(pairs, reverse=True)


@pytest.mark.parametrize(("classes", "dim", "count"), [(6, 4, 5), (3, 8, 10), (40, 3, 7)])
def test_the_most_confused_pairs_are_those_of_a_double_loop(classes: int, dim: int, count: int) -> None:
    h, y = problem(classes, dim, 30 * classes, seed=classes)
    found = confused_pairs(ClassStatistics(classes, dim, full=False).update(h, y), count)
    expected = slow_pairs(h, y)[:count]
    assert [(pair.first, pair.second) for pair in found] == [(i, j) for _, i, j in expected]
    np.testing.assert_allclose([pair.cdnv for pair in found], [value for value, _, _ in expected], rtol=1e-9)


def test_pairs_are_found_across_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    h, y = problem(20, 5, 300, seed=1)
    stats = ClassStatistics(20, 5).update(h, y)
    whole = confused_pairs(stats, 6)
    monkeypatch.setattr("ood_nc.collapse._common._BLOCK_ELEMENTS", 60)
    assert [(pair.first, pair.second) for pair in confused_pairs(stats, 6)] == [(p.first, p.second) for p in whole]


def test_columns_average_to_the_metrics_and_name_the_class() -> None:
    h, y = problem(5, 6, 200, seed=3)
    h[y == 4] += 3 * np.random.default_rng(1).normal(size=(int((y == 4).sum()), 6))
    weight = np.random.default_rng(0).normal(size=(7, 6))
    stats = ClassStatistics(7, 6).update(h, np.where(y == 4, 6, y))
    report = measure_classes(stats, weight=weight, pairs=2)
    assert report.counts[4] == report.counts[5] == 0
    assert report.variance[4] is report.alignment[5] is None
    assert report.variance[6] == pytest.approx(((h[y == 4] - h[y == 4].mean(0)) ** 2).sum(1).mean(), rel=1e-12)
    present = [0, 1, 2, 3, 6]
    assert np.mean([report.cdnv[c] for c in present]) == pytest.approx(cdnv(stats), rel=1e-12)
    assert np.mean([report.alignment[c] for c in present]) == pytest.approx(nc3_alignment(stats, weight), rel=1e-12)
    assert {pair.second for pair in report.pairs} == {6}
    centred = np.stack([h[y == c].mean(0) for c in range(5)])
    centred -= centred.mean(0)
    np.testing.assert_allclose([report.mean_norm[c] for c in present], np.linalg.norm(centred, axis=1), rtol=1e-12)
    lengths = np.linalg.norm(centred, axis=1)
    cosines = centred @ centred.T / np.outer(lengths, lengths) - 2 * np.eye(5)
    np.testing.assert_allclose([report.nearest_cosine[c] for c in present], cosines.max(1), rtol=1e-9)


def test_what_is_undefined_says_why() -> None:
    stats = ClassStatistics(3, 2).update([[0.0, 1.0], [0.0, 3.0], [0.0, 2.0], [5.0, 5.0]], [0, 0, 1, 2])
    report = measure_classes(stats)
    assert report.cdnv == (None, None, None)
    assert report.reasons == {"cdnv": "two class means coincide.", "alignment": "needs weight."}
    assert (report.pairs[0].first, report.pairs[0].second) == (0, 1)
    assert math.isinf(report.pairs[0].cdnv)


def test_wrong_arguments_are_refused() -> None:
    stats = ClassStatistics(2, 2).update(torch.eye(2), [0, 1])
    with pytest.raises(UserError, match="must not be negative, got -1"):
        confused_pairs(stats, -1)
    assert confused_pairs(stats, 0) == []
    with pytest.raises(UndefinedMetricError, match="no samples"):
        measure_classes(ClassStatistics(2, 2))
