"""Preparation of features: principal directions against scikit-learn, the sensitivity of what is released."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from ood_nc.errors import UserError
from ood_nc.privacy import Mechanism, private_preparation, public_preparation


def cloud(n: int = 300, dim: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, dim, generator=generator, dtype=torch.float64) * torch.arange(1, dim + 1) + 2


def test_public_directions_are_scikit_learns() -> None:
    x = cloud()
    ours = public_preparation(x, normalize=False, components=3)
    theirs = PCA(3).fit(x.numpy())
    assert np.allclose(ours.center, theirs.mean_)
    assert np.allclose(np.abs(ours.directions.T.numpy() @ theirs.components_.T), np.eye(3), atol=1e-6)
    assert np.allclose(ours(x).abs().numpy(), np.abs(theirs.transform(x.numpy())), atol=1e-6)


def test_private_directions_without_noise_are_public_ones() -> None:
    x = cloud()
    private, spent = private_preparation(x, noise_multiplier=0.0, generator=torch.Generator(), components=2)
    public = public_preparation(x, components=2)
    assert torch.allclose(private.center, public.center)
    assert torch.allclose(private.directions.abs(), public.directions.abs())
    assert spent == [Mechanism(0.0)] * 2


def test_noise_is_symmetric_and_of_the_stated_size() -> None:
    """With one direction of all features alike, the noise of the mean is seen in the mean."""
    x = torch.nn.functional.one_hot(torch.zeros(50, dtype=torch.long), 400).double()
    found, spent = private_preparation(x, noise_multiplier=3.0, generator=torch.Generator().manual_seed(0))
    assert (50 * found.center[1:]).std().item() == pytest.approx(3.0, rel=0.1)
    assert found.directions is None
    assert spent == [Mechanism(3.0)]


def test_one_record_moves_each_release_by_one_at_most() -> None:
    x = torch.nn.functional.normalize(cloud(), dim=1)
    outer = x[:, :, None] * x[:, None, :]
    assert float(torch.stack([one.triu().norm() for one in outer]).max()) <= 1 + 1e-12
    assert float(x.norm(dim=1).max()) <= 1 + 1e-12


def test_samples_stay_at_unit_norm() -> None:
    x = cloud()
    for found in (public_preparation(x, components=3), public_preparation(x, center=False)):
        assert torch.allclose(found(x).norm(dim=1), torch.ones(len(x), dtype=torch.float64))


def test_too_many_components() -> None:
    with pytest.raises(UserError, match="from 1 to 6"):
        public_preparation(cloud(), components=7)
