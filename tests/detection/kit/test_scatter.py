from __future__ import annotations

import numpy as np
import pytest
import torch

from ood_nc.detection.kit import scatter
from ood_nc.detection.kit.whitening import whitened_distance, whitening

N, D, CLASSES = 9000, 128, 5


def problem(spread: float, offset: float = 3.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Float32 features whose last direction varies ``spread`` as much as the first, labels, and float64 class means."""
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=torch.float64))[0]
    scales = spread ** (torch.arange(D, dtype=torch.float64) / (D - 1))
    labels = torch.arange(N) % CLASSES
    centers = torch.randn(CLASSES, D, generator=generator, dtype=torch.float64)
    noise = torch.randn(N, D, generator=generator, dtype=torch.float64) * scales
    features = ((noise + centers[labels] * scales) @ turn.T + offset).float()
    means = torch.stack([features[labels == c].double().mean(dim=0) for c in range(CLASSES)])
    return features, labels, means


def slow_scatter(features: torch.Tensor, labels: torch.Tensor, means: torch.Tensor) -> np.ndarray:
    rows = features.double().numpy() - means.numpy()[labels.numpy()]
    return rows.T @ rows


def slow_distances(rows: torch.Tensor, means: torch.Tensor, covariance: np.ndarray) -> np.ndarray:
    gaps = rows.double().numpy()[:, None] - means.numpy()
    return np.einsum("bcd,de,bce->bc", gaps, np.linalg.inv(covariance), gaps).min(axis=1)


def test_many_rows_are_multiplied_in_float32_and_their_inverse_keeps_five_digits() -> None:
    features, labels, means = problem(spread=0.1)
    expected = slow_scatter(features, labels, means)
    found = scatter.centered_scatter(features, means, labels).numpy()
    assert np.abs(found - expected).max() > 1e-11 * np.abs(expected).max(), "float64 costs twice as much"
    rows = features[:200]
    np.testing.assert_allclose(
        slow_distances(rows, means, found / N), slow_distances(rows, means, expected / N), rtol=5e-6
    )


@pytest.mark.parametrize("spread", [1e-3, 1e-6])
def test_collapsed_features_are_multiplied_in_float64(spread: float) -> None:
    features, labels, means = problem(spread)
    expected = slow_scatter(features, labels, means)
    found = scatter.centered_scatter(features, means, labels).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * np.abs(expected).max())


def test_a_copied_column_and_a_dead_one() -> None:
    features, labels, means = problem(spread=0.1)
    doubled, dead = features.clone(), features.clone()
    doubled[:, 1], dead[:, 1] = doubled[:, 0], 0.0
    for rows, narrow in ((doubled, False), (dead, True)):
        centers = means.clone()
        centers[:, 1] = centers[:, 0] if not narrow else 0.0
        expected = slow_scatter(rows, labels, centers)
        apart = np.abs(scatter.centered_scatter(rows, centers, labels).numpy() - expected).max()
        assert (apart > 1e-11 * np.abs(expected).max()) == narrow


def test_the_inverse_of_a_correlation_matrix_has_the_inflation_factors_on_its_diagonal() -> None:
    covariance = np.cov(np.random.default_rng(0).normal(size=(30, 6)) @ np.diag([1e-5, 1, 2, 3, 4, 1e5]), rowvar=False)
    shares = 1 / np.sqrt(np.diag(covariance))
    expected = np.diag(np.linalg.inv(covariance * shares * shares[:, None])).mean()
    assert scatter.variance_inflation(torch.from_numpy(covariance)) == pytest.approx(expected, rel=1e-9)
    assert scatter.variance_inflation(torch.zeros(3, 3, dtype=torch.float64)) == 1
    assert scatter.variance_inflation(torch.ones(3, 3, dtype=torch.float64)) == torch.inf


@pytest.mark.parametrize("spread", [1.0, 0.1, 1e-3, 1e-6])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_whitened_distances_are_right_to_five_digits_whatever_the_spread(spread: float, offset: float) -> None:
    features, labels, means = problem(spread, offset)
    covariance = torch.from_numpy(slow_scatter(features, labels, means) / N)
    matrix, origin = whitening(covariance), means.mean(dim=0)
    elsewhere = torch.randn(300, D, generator=torch.Generator().manual_seed(1)) * features.std() + offset
    rows = torch.cat([features[:3000], elsewhere, means.float()])
    centers = (means - origin) @ matrix
    found = whitened_distance(rows, origin, matrix, centers)
    gaps = (rows.double()[:, None] - means).flatten(0, 1) @ matrix
    expected = gaps.square().sum(dim=1).view(-1, CLASSES).amin(dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    alone = torch.cat([whitened_distance(row[None], origin, matrix, centers) for row in rows[:9]])
    torch.testing.assert_close(alone, found[:9], rtol=1e-5, atol=0)


def test_few_digits_are_lost_only_where_there_are_none_to_lose() -> None:
    features, labels, means = problem(spread=1.0)
    covariance = torch.from_numpy(slow_scatter(features, labels, means) / N)
    matrix, origin = whitening(covariance), means.mean(dim=0)
    centers = (means - origin) @ matrix
    narrow = whitened_distance(features, origin, matrix, centers)
    wide = whitened_distance(features.double(), origin, matrix, centers)
    assert not torch.equal(narrow, wide), "float64 costs twice as much"
    torch.testing.assert_close(narrow, wide, rtol=2e-6, atol=0)
