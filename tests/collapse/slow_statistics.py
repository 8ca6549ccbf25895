"""Class statistics by a float64 loop over the samples, and how those of the package are held against them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ood_nc.collapse import ClassStatistics


def slow_statistics(
    features: Any, labels: Any, classes: int, weights: Any = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mass (C,), means (C, d), variances (C,) and Sigma_W, one sample and class at a time."""
    h = np.asarray(features, dtype=np.float64)
    y = np.asarray(labels)
    soft = np.eye(classes)[y] if y.ndim == 1 else y.astype(np.float64)
    if weights is not None:
        soft = soft * np.asarray(weights, dtype=np.float64)[:, None]
    mass = np.zeros(classes)
    means = np.full((classes, h.shape[1]), np.nan)
    variances = np.full(classes, np.nan)
    scatter = np.zeros((h.shape[1], h.shape[1]))
    for c in range(classes):
        mass[c] = soft[:, c].sum()
        if mass[c] == 0:
            continue
        means[c] = sum(t * row for t, row in zip(soft[:, c], h, strict=True)) / mass[c]
        own = np.zeros_like(scatter)
        for t, row in zip(soft[:, c], h, strict=True):
            own += t * np.outer(row - means[c], row - means[c])
        variances[c] = np.trace(own) / mass[c]
        scatter += own
    return mass, means, variances, scatter / mass.sum()


def problem(seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """A random problem: any of C > d, d > N, empty classes, single samples, imbalance, an offset, duplicate rows."""
    rng = np.random.default_rng(seed)
    classes, dim, n = int(rng.integers(2, 12)), int(rng.integers(1, 20)), int(rng.integers(2, 120))
    share = rng.dirichlet(np.full(classes, rng.choice([0.2, 1.0, 50.0])))
    y = rng.choice(classes, n, p=share)
    y[:2] = rng.permutation(classes)[:2]
    centers = rng.normal(size=(classes, dim)) * rng.choice([0.1, 1.0, 10.0])
    h = centers[y] + rng.normal(size=(n, dim)) * rng.choice([0.01, 0.3, 2.0]) + rng.choice([0.0, 100.0])
    if n > 10 and rng.random() < 0.3:
        h[n // 2 :], y[n // 2 :] = h[: n - n // 2], y[: n - n // 2]
    return h, y, classes


def assert_matches(stats: ClassStatistics, features: Any, labels: Any, weights: Any = None, rtol: float = 1e-8) -> None:
    mass, means, variances, within = slow_statistics(features, labels, stats.num_classes, weights)
    full = mass > 0
    scale = np.abs(np.asarray(features, dtype=np.float64)).max()
    np.testing.assert_allclose(stats.counts, mass, rtol=rtol)
    np.testing.assert_array_equal(stats.present, full.nonzero()[0])
    np.testing.assert_allclose(stats.means, means, rtol=rtol, atol=rtol * scale)
    floor = rtol * max(float(np.trace(within)), 1e-12 * scale**2)
    np.testing.assert_allclose(stats.class_variances, variances, rtol=rtol, atol=floor)
    np.testing.assert_allclose(stats.within, within, rtol=rtol, atol=floor)
    np.testing.assert_allclose(
        stats.scatter_traces, np.nan_to_num(variances) * mass, rtol=rtol, atol=floor * mass.sum()
    )
    np.testing.assert_allclose(stats.uncentered_means, means[full], rtol=rtol, atol=rtol * scale)
    global_mean, sample_mean = means[full].mean(axis=0), mass[full] @ means[full] / mass.sum()
    np.testing.assert_allclose(stats.global_mean, global_mean, rtol=rtol, atol=rtol * scale)
    np.testing.assert_allclose(stats.sample_mean, sample_mean, rtol=rtol, atol=rtol * scale)
    centered = means[full] - global_mean
    np.testing.assert_allclose(stats.centered_means(), centered, atol=rtol * scale)
    np.testing.assert_allclose(stats.centered_means("samples"), means[full] - sample_mean, atol=rtol * scale)
    np.testing.assert_allclose(stats.between, centered.T @ centered / full.sum(), atol=rtol * scale**2)


def assert_same(left: ClassStatistics, right: ClassStatistics, rtol: float = 1e-10) -> None:
    scale = float(right.scatter_traces.sum())
    torch.testing.assert_close(left.counts, right.counts, rtol=rtol, atol=0)
    torch.testing.assert_close(left.means, right.means, rtol=rtol, atol=rtol, equal_nan=True)
    torch.testing.assert_close(left.scatter_traces, right.scatter_traces, rtol=rtol, atol=rtol * scale)
    torch.testing.assert_close(left.within, right.within, rtol=rtol, atol=rtol * scale)
    assert left.num_samples == right.num_samples
