from __future__ import annotations

import pytest
import torch

from ood_nc.detection.kit import linalg
from ood_nc.detection.kit.whitening import triangular_whitening, whitening


def covariance(*eigenvalues: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(len(eigenvalues), len(eigenvalues), generator=generator, dtype=torch.float64)
    axes = torch.linalg.qr(rows)[0]
    return (axes * torch.tensor(eigenvalues, dtype=torch.float64)) @ axes.T


@pytest.mark.parametrize(
    ("eigenvalues", "rank", "decomposed"),
    [
        ((3.0, 1.0, 0.5, 0.2), 4, False),
        ((3.0, 1.0, 0.5, 1e-6), 4, False),
        ((3.0, 1.0, 0.5, 1e-10), 4, True),  # regular, and too near to losing rank for a factor of it
        ((3.0, 1.0, 0.5, 0.0), 3, True),
        ((1e-12, 4e-13, 2e-13, 3e-13), 4, False),  # small is not singular
        ((1.0, 0.0, 0.0, 0.0), 1, True),
    ],
)
def test_a_factor_of_the_pseudo_inverse_with_zeros_above_its_diagonal(
    eigenvalues: tuple[float, ...], rank: int, decomposed: bool
) -> None:
    matrix, asked = covariance(*eigenvalues), []

    def decompose() -> linalg.Eigen:
        asked.append(True)
        return linalg.eigen(matrix)

    found = whitening(matrix, decompose)
    assert bool(asked) == decomposed and found.shape == (4, rank)
    assert not found.triu(1).any()
    wanted = torch.linalg.pinv(matrix, rtol=1e-12, hermitian=True)
    torch.testing.assert_close(found @ found.T, wanted, rtol=1e-5 if 1e-10 in eigenvalues else 1e-8, atol=0.0)


def test_both_ways_to_it_agree_up_to_signs() -> None:
    matrix = covariance(5.0, 2.0, 0.3, 0.01, 1e-4)
    direct = triangular_whitening(matrix)[0]
    scaled = linalg.eigen(matrix).vectors / linalg.eigen(matrix).values.sqrt()
    torch.testing.assert_close(direct.abs(), torch.linalg.qr(scaled.T)[1].T.abs(), rtol=1e-9, atol=1e-12)


def test_a_covariance_without_spread_has_no_direction() -> None:
    assert whitening(torch.zeros(3, 3, dtype=torch.float64)).shape == (3, 0)
