"""What features go through before a private head: centring, unit norm, few dimensions; from public data or paid for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ood_nc.errors import UserError
from ood_nc.privacy.accounting import Mechanism


@dataclass(frozen=True)
class Preparation:
    """Centring, projection and normalisation of features, in this order; what is None or False is left out.

    Attributes:
        normalize: bring every sample to norm 1, before the rest and after it; that reads one sample at a time and so
            costs no privacy.
        center: (d,), what is subtracted.
        directions: (d, k) with orthonormal columns, what is projected onto.

    Example:
        >>> import torch
        >>> from ood_nc.privacy import Preparation
        >>> Preparation(normalize=True)(torch.tensor([[3.0, 4.0]])).tolist()
        [[0.6..., 0.8...]]
    """

    normalize: bool = False
    center: torch.Tensor | None = None
    directions: torch.Tensor | None = None

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Prepare features (N, d); the result is (N, k)."""
        if self.normalize:
            features = F.normalize(features, dim=1)
        if self.center is not None:
            features = features - self.center.to(features)
        if self.directions is not None:
            features = features @ self.directions.to(features)
        changed = self.center is not None or self.directions is not None
        return F.normalize(features, dim=1) if self.normalize and changed else features


def public_preparation(
    public: torch.Tensor, *, normalize: bool = True, center: bool = True, components: int | None = None
) -> Preparation:
    """Mean and principal directions of public features (M, d): they cost no privacy.

    Example:
        >>> import torch
        >>> from ood_nc.privacy import public_preparation
        >>> public_preparation(torch.eye(3), components=2)(torch.eye(3)).shape
        torch.Size([3, 2])
    """
    x = Preparation(normalize)(public)
    mean = x.mean(dim=0) if center else None
    directions = None if components is None else _top(x.T @ x / len(x) - _outer(mean), components, len(x))
    return Preparation(normalize, mean, directions)


def private_preparation(
    features: torch.Tensor,
    *,
    noise_multiplier: float,
    generator: torch.Generator,
    center: bool = True,
    components: int | None = None,
) -> tuple[Preparation, list[Mechanism]]:
    """Mean and principal directions of private features, each released once with Gaussian noise, at unit norm.

    The sum of unit vectors has sensitivity 1, and so have the entries on and above the diagonal of the sum of their
    outer products (Analyze Gauss: Dwork, Talwar, Thakurta, Zhang, STOC 2014).

    Args:
        features: (N, d); N is taken as public.
        noise_multiplier: of each of the releases; 0 for none, which is not private.
        generator: of the noise.
        center: release the mean.
        components: release the sum of outer products, and keep its so many first directions.

    Returns:
        The preparation, and the mechanisms that were run.

    Example:
        >>> import torch
        >>> from ood_nc.privacy import private_preparation
        >>> _, spent = private_preparation(torch.eye(3), noise_multiplier=2.0, generator=torch.Generator())
        >>> spent
        [Mechanism(noise_multiplier=2.0, sample_rate=1.0, steps=1)]
    """
    x = F.normalize(features, dim=1)
    n, dim = x.shape

    def noise(*shape: int) -> torch.Tensor:
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64) if noise_multiplier else torch.zeros(shape)
        return (noise_multiplier * drawn).to(x)

    mean = (x.sum(dim=0) + noise(dim)) / n if center else None
    spent = [Mechanism(noise_multiplier)] * (center + (components is not None))
    if components is None:
        return Preparation(True, mean), spent
    upper = noise(dim, dim).triu()
    second = (x.T @ x + upper + upper.triu(1).T) / n
    return Preparation(True, mean, _top(second - _outer(mean), components, n)), spent


def _outer(mean: torch.Tensor | None) -> torch.Tensor | float:
    return 0.0 if mean is None else torch.outer(mean, mean)


def _top(matrix: torch.Tensor, components: int, n: int) -> torch.Tensor:
    """The eigenvectors (d, k) of a symmetric matrix with the largest eigenvalues."""
    if not 1 <= components <= min(len(matrix), n):
        raise UserError(
            f"components must be from 1 to {min(len(matrix), n)} (the width, the samples), got {components}."
        )
    return torch.linalg.eigh(matrix.double())[1][:, -components:].flip(1).to(matrix.dtype)
