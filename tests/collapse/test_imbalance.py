from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from ood_nc.collapse import (
    ClassStatistics,
    UndefinedMetricError,
    minority_classes,
    minority_collapse,
    nc2_etf,
    nc2_seli,
)
from ood_nc.errors import UserError

COUNTS = [100, 100, 5, 5]


def of_means(means: np.ndarray) -> ClassStatistics:
    return ClassStatistics(*means.shape).update(means, np.arange(len(means)))


def of_counts(counts: list[int], dim: int = 3) -> ClassStatistics:
    labels = np.repeat(np.arange(len(counts)), counts)
    features = np.random.default_rng(0).normal(size=(len(labels), dim))
    return ClassStatistics(len(counts), dim).update(features, labels)


def imbalanced() -> ClassStatistics:
    return of_counts(COUNTS)


def test_minority_classes_are_counted_against_the_mean_of_the_classes_that_have_samples() -> None:
    stats = of_counts([0, 30, 4, 0, 8, 6])  # mean 12
    assert minority_classes(stats).tolist() == [2]
    assert minority_classes(stats, share=0.6).tolist() == [2, 5]
    assert minority_classes(stats, share=10).tolist() == [1, 2, 4, 5]
    assert minority_classes(of_counts([5, 5])).tolist() == []


def test_minority_collapse_is_the_mean_cosine_over_pairs_of_minority_rows() -> None:
    stats = of_counts([200, 0, 4, 6, 5])
    weight = np.random.default_rng(1).normal(size=(5, 3))
    rows = [weight[c] / np.linalg.norm(weight[c]) for c in (2, 3, 4)]
    cosines = [rows[i] @ rows[j] for i in range(3) for j in range(3) if i != j]
    assert minority_collapse(stats, weight) == pytest.approx(np.mean(cosines), rel=1e-12)
    assert minority_collapse(stats, torch.from_numpy(weight)) == minority_collapse(stats, weight)


def test_merged_minority_rows_give_1_and_an_etf_its_cosine() -> None:
    merged = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 2], [0, 0, 5]])
    assert minority_collapse(imbalanced(), merged) == pytest.approx(1)
    assert minority_collapse(of_counts(COUNTS, dim=4), np.eye(4) - 1 / 4) == pytest.approx(-1 / 3)


def test_minority_collapse_without_two_directions_is_undefined() -> None:
    with pytest.raises(UndefinedMetricError, match="no direction"):
        minority_collapse(imbalanced(), np.zeros((4, 3)))
    with pytest.raises(UndefinedMetricError, match="needs 2 classes"):
        minority_collapse(of_means(np.eye(4)), np.eye(4))


def test_balanced_classes_have_the_simplex_etf_as_optimum() -> None:
    weight = np.random.default_rng(2).normal(size=(4, 4))
    assert nc2_seli(of_means(np.eye(4)), weight) == pytest.approx(nc2_etf(weight), rel=1e-9)


def test_the_imbalanced_optimum_is_the_square_root_of_the_encoded_labels() -> None:
    encoded = (np.eye(4) - 1 / 4) @ np.diag(np.sqrt(COUNTS))
    left, lengths, _ = np.linalg.svd(encoded)
    root = left * np.sqrt(lengths)  # W W' = V L V'
    assert nc2_seli(imbalanced(), root[:, :3]) == pytest.approx(0, abs=1e-6)
    ideal = np.real(sqrtm(encoded @ encoded.T + 1e-14 * np.eye(4)))
    weight = np.random.default_rng(3).normal(size=(4, 3))
    gram = weight @ weight.T
    expected = np.linalg.norm(gram / np.linalg.norm(gram) - ideal / np.linalg.norm(ideal))
    assert nc2_seli(imbalanced(), weight) == pytest.approx(expected, rel=1e-6)


def test_the_optimum_of_label_repetition_agrees_with_that_of_the_counts() -> None:
    # The definition by the samples themselves: the SVD of the simplex-encoded label matrix (C, N).
    counts = [7, 3, 2]
    labels = np.repeat(np.arange(3), counts)
    left, lengths, _ = np.linalg.svd(np.eye(3)[:, labels] - 1 / 3, full_matrices=False)
    ideal = (left * lengths) @ left.T
    weight = np.random.default_rng(4).normal(size=(3, 3))
    gram = weight @ weight.T
    expected = np.linalg.norm(gram / np.linalg.norm(gram) - ideal / np.linalg.norm(ideal))
    assert nc2_seli(of_counts(counts), weight) == pytest.approx(expected, rel=1e-9)


def test_the_imbalanced_optimum_is_undefined_without_classes_or_weight() -> None:
    with pytest.raises(UndefinedMetricError, match="weight is 0"):
        nc2_seli(imbalanced(), np.zeros((4, 3)))
    with pytest.raises(UndefinedMetricError, match="there is 1"):
        nc2_seli(of_means(np.ones((1, 3))), np.ones((1, 3)))
    for metric in (nc2_seli, minority_collapse):
        with pytest.raises(UndefinedMetricError, match="no samples"):
            metric(ClassStatistics(3, 3), np.eye(3))
        with pytest.raises(UserError, match="as the features have 3 columns"):
            metric(imbalanced(), np.ones((4, 2)))
        with pytest.raises(UndefinedMetricError, match="3 rows"):
            metric(imbalanced(), np.ones((3, 3)))
