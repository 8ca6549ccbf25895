"""Spectral community detection: projected power iterations on the normalised Laplacian and on the Bethe-Hessian."""

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
    """Eigenvalues, ascending (N,), and eigenvectors as columns (N, N), float64; the second is the Fiedler vector."""

    values: Tensor
    vectors: Tensor


def dense_operator(edge_index: Tensor, nodes: int, name: Operator) -> Tensor:
    """I - D^-1/2 A D^-1/2, or (r^2 - 1) I - r A + D with r = sqrt(mean degree) (Saade et al., NeurIPS 2014).

    Nodes without neighbours have the entry 1 in the normalised Laplacian.

    Raises:
        UserError: unknown name.
    """
    if name not in OPERATORS:
        raise UserError(f"Unknown operator {name!r}: use {' or '.join(OPERATORS)}.")
    adjacency = torch.zeros(nodes, nodes, dtype=torch.float64)
    adjacency[edge_index[0], edge_index[1]] = 1
    degrees = adjacency.sum(dim=1)
    identity = torch.eye(nodes, dtype=torch.float64)
    if name == "normalized_laplacian":
        scale = degrees.clamp(min=1).rsqrt()
        return identity - scale[:, None] * adjacency * scale
    r = degrees.mean().sqrt()
    return (r**2 - 1) * identity - r * adjacency + degrees.diag()


def spectrum(edge_index: Tensor, nodes: int, name: Operator) -> Spectrum:
    """All eigenvalues and eigenvectors, exactly."""
    return Spectrum(*torch.linalg.eigh(dense_operator(edge_index, nodes, name)))


def projected_power_iterations(
    edge_index: Tensor, nodes: int, classes: int, name: Operator, iterations: Sequence[int], generator: torch.Generator
) -> list[Tensor]:
    """Power iterations for the eigenvectors 2 to C of the smallest eigenvalues, the first one projected out.

    The operator M is shifted to |M|_2 I - M, so that its smallest eigenvalues become the largest. For more than two
    classes the C - 1 vectors are iterated together and kept orthonormal.

    Args:
        edge_index: (2, E).
        nodes: N.
        classes: C.
        name: of the operator.
        iterations: numbers of iterations, ascending.
        generator: of the start.

    Returns:
        The vectors (N, C - 1) after each of these numbers.
    """
    matrix = dense_operator(edge_index, nodes, name)
    values, vectors = torch.linalg.eigh(matrix)
    shifted = values.abs().max() * torch.eye(nodes, dtype=torch.float64) - matrix
    first = vectors[:, :1]
    current = torch.randn(nodes, classes - 1, dtype=torch.float64, generator=generator)
    found = []
    for step in range(1, max(iterations) + 1):
        current = shifted @ current
        current = torch.linalg.qr(current - first @ (first.T @ current))[0]
        if step in iterations:
            found.append(current)
    return found


def spectral_labels(vectors: Tensor, classes: int) -> Tensor:
    """Communities (N,) from eigenvectors (N, C - 1): their sign for two classes, else k-means (seed 0)."""
    if classes == 2:
        return (vectors[:, 0] > 0).long()
    labels = KMeans(classes, n_init=4, random_state=0).fit_predict(vectors.numpy())
    return torch.from_numpy(np.asarray(labels)).long()
