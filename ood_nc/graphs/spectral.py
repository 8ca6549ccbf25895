"""Spectral community detection: projected power iterations on the normalised Laplacian and on the Bethe-Hessian.

Heterophilic communities, sparser inside than across, are seen at the other end of the adjacency's spectrum: there the
operators are taken of -A, so that their smallest eigenvalues tell of the communities in both cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from ood_nc.errors import UserError

Operator = Literal["normalized_laplacian", "bethe_hessian"]
OPERATORS: tuple[Operator, ...] = ("normalized_laplacian", "bethe_hessian")


class Spectrum(NamedTuple):
    """Eigenvalues, ascending (N,), and eigenvectors as columns (N, N), float64."""

    values: Tensor
    vectors: Tensor


def dense_operator(edge_index: Tensor, nodes: int, name: Operator, *, heterophilic: bool = False) -> Tensor:
    """I - D^-1/2 A D^-1/2, or (r^2 - 1) I - r A + D with r = sqrt(mean degree) (Saade et al., NeurIPS 2014).

    Heterophilic: I + D^-1/2 A D^-1/2, and r = -sqrt(mean degree). Nodes without neighbours have the entry 1 in the
    normalised Laplacian.

    Raises:
        UserError: unknown name.
    """
    if name not in OPERATORS:
        raise UserError(f"Unknown operator {name!r}: use {' or '.join(OPERATORS)}.")
    adjacency = torch.zeros(nodes, nodes, dtype=torch.float64)
    adjacency[edge_index[0], edge_index[1]] = 1
    degrees = adjacency.sum(dim=1)
    identity = torch.eye(nodes, dtype=torch.float64)
    signed = -adjacency if heterophilic else adjacency
    if name == "normalized_laplacian":
        scale = degrees.clamp(min=1).rsqrt()
        return identity - scale[:, None] * signed * scale
    r = degrees.mean().sqrt()
    return (r**2 - 1) * identity - r * signed + degrees.diag()


def spectrum(edge_index: Tensor, nodes: int, name: Operator, *, heterophilic: bool = False) -> Spectrum:
    """All eigenvalues and eigenvectors of `dense_operator`, exactly."""
    return Spectrum(*torch.linalg.eigh(dense_operator(edge_index, nodes, name, heterophilic=heterophilic)))


def informative(found: Spectrum, classes: int, *, heterophilic: bool = False) -> Tensor:
    """The C - 1 eigenvectors (N, C - 1) that tell of communities; of two classes the Fiedler vector.

    They are the smallest, after the first where that is the near-constant one; of heterophilic graphs it is the last.
    """
    first = 0 if heterophilic else 1
    return found.vectors[:, first : first + classes - 1]


def projected_power_iterations(
    edge_index: Tensor,
    nodes: int,
    classes: int,
    name: Operator,
    iterations: Sequence[int],
    generator: torch.Generator,
    *,
    heterophilic: bool = False,
) -> list[Tensor]:
    """Power iterations for the `informative` eigenvectors, the near-constant one projected out.

    The operator M is shifted to |M|_2 I - M, so that its smallest eigenvalues become the largest. For more than two
    classes the C - 1 vectors are iterated together and kept orthonormal.

    Args:
        edge_index: (2, E).
        nodes: N.
        classes: C.
        name: of the operator.
        iterations: numbers of iterations, ascending.
        generator: of the start.
        heterophilic: the communities are sparser inside than across.

    Returns:
        The vectors (N, C - 1) after each of these numbers.
    """
    matrix = dense_operator(edge_index, nodes, name, heterophilic=heterophilic)
    values, vectors = torch.linalg.eigh(matrix)
    shifted = values.abs().max() * torch.eye(nodes, dtype=torch.float64) - matrix
    constant = vectors[:, -1:] if heterophilic else vectors[:, :1]
    current = torch.randn(nodes, classes - 1, dtype=torch.float64, generator=generator)
    found = []
    for step in range(1, max(iterations) + 1):
        current = shifted @ current
        current = torch.linalg.qr(current - constant @ (constant.T @ current))[0]
        if step in iterations:
            found.append(current)
    return found


def spectral_labels(vectors: Tensor, classes: int) -> Tensor:
    """Communities (N,) from eigenvectors (N, C - 1): their sign for two classes, else k-means (seed 0)."""
    if classes == 2:
        return (vectors[:, 0] > 0).long()
    labels = KMeans(classes, n_init=4, random_state=0).fit_predict(vectors.numpy())
    return torch.from_numpy(np.asarray(labels)).long()
