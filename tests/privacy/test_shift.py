"""Feature shift against SciPy's orthogonal Procrustes, and on exact frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes

from ood_nc.errors import UserError
from ood_nc.models.etf import simplex_vertices
from ood_nc.privacy import feature_shift


def test_a_collapsed_layer_has_none() -> None:
    labels = torch.arange(40) % 4
    vertices = simplex_vertices(4, 7, seed=0, dtype=torch.float64)
    found = feature_shift(5 * vertices[labels] + 3, labels)
    assert max(*found.sup, *found.euclidean) < 1e-12


@pytest.mark.parametrize("dim", [3, 4, 12])
def test_against_scipys_procrustes(dim: int) -> None:
    generator = np.random.default_rng(0)
    classes = 4
    labels = np.arange(200) % classes
    x = generator.normal(size=(classes, dim))[labels] + 0.3 * generator.normal(size=(200, dim)) + 1
    unit = x - x.mean(0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    means = np.stack([unit[labels == c].mean(0) for c in range(classes)])
    etf = simplex_vertices(classes, max(dim, classes), dtype=torch.float64).numpy()
    padded = np.pad(means - means.mean(0), ((0, 0), (0, max(dim, classes) - dim)))
    rotation, _ = orthogonal_procrustes(etf, padded)
    gap = unit - (etf @ rotation)[:, :dim][labels]
    found = feature_shift(x, labels)
    assert found.sup.max == pytest.approx(np.abs(gap).max())
    assert found.sup.median == pytest.approx(np.median(np.abs(gap).max(1)))
    assert found.euclidean.q95 == pytest.approx(np.quantile(np.linalg.norm(gap, axis=1), 0.95))


def test_the_two_norm_knows_no_basis_and_offset_and_scale_do_not_count() -> None:
    generator = np.random.default_rng(1)
    labels = np.arange(60) % 3
    x = generator.normal(size=(60, 6)) + np.eye(6)[labels]
    turned = x @ np.linalg.qr(generator.normal(size=(6, 6)))[0]
    assert feature_shift(turned, labels).euclidean == pytest.approx(feature_shift(x, labels).euclidean)
    assert np.allclose(feature_shift(9 * x + 4, labels).sup, feature_shift(x, labels).sup)


def test_too_few_dimensions() -> None:
    with pytest.raises(UserError, match="d >= K - 1, got K 3, d 1"):
        feature_shift([[0.0], [1.0], [2.0]], [0, 1, 2])
