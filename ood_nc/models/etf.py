"""Simplex equiangular tight frames: the vertices, the frozen projector's weights, and the fixed classifier."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from ood_nc.errors import UserError

CONSTRUCTIONS = ("paper", "orthonormal")


def simplex_vertices(
    num_classes: int, dim: int, *, seed: int | None = None, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Return the K vertices of a simplex ETF in d dimensions, one a row.

    Unit norm, pairwise cosine -1/(K-1), sum zero (Papyan, Han, Donoho, PNAS 2020). They exist iff d >= K-1. Built in
    float64, then cast.

    Args:
        num_classes: K, the number of vertices.
        dim: d, the dimension they live in.
        seed: rotates them by a random orthonormal map; without it they are the Helmert basis, in the first K-1 axes.
        dtype: of the result (K, d).

    Raises:
        UserError: K < 2, or d < K-1.

    Example:
        >>> vertices = simplex_vertices(3, dim=2)
        >>> vertices @ vertices.T
        tensor([[ 1.0000, -0.5000, -0.5000],
                [-0.5000,  1.0000, -0.5000],
                [-0.5000, -0.5000,  1.0000]])
    """
    if num_classes < 2:
        raise UserError(f"A simplex ETF needs at least 2 classes, got {num_classes}.")
    if dim < num_classes - 1:
        raise UserError(
            f"No simplex ETF of K = {num_classes} vertices in d = {dim} dimensions: it needs d >= K - 1 = "
            f"{num_classes - 1}. Take fewer classes or wider features."
        )
    basis = math.sqrt(num_classes / (num_classes - 1)) * _helmert(num_classes)
    if seed is None:
        return F.pad(basis, (0, dim - num_classes + 1)).to(dtype)
    rotation = _orthonormal_columns(dim, num_classes - 1, torch.Generator().manual_seed(seed))
    return (basis @ rotation.T).to(dtype)


def paper_weight(rows: int, columns: int, simplex: int) -> torch.Tensor:
    """Return sqrt(c/(c-1)) (eye(rows, columns) - ones/c), c = ``simplex``: the frozen weight of the paper's code.

    A simplex ETF only for rows = columns = c; for a non-square shape the rows past the square block are identical.
    Float64. Source: Harun, Gallardo, Kanan, ICML 2025, released code.
    """
    _check_simplex(simplex)
    scale = math.sqrt(simplex / (simplex - 1))
    return scale * (torch.eye(rows, columns, dtype=torch.float64) - 1.0 / simplex)


def orthonormal_weight(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    """Return sqrt(c/(c-1)) U (I - 11'/c), c = min(rows, columns): an exact simplex ETF at any shape.

    U has c orthonormal columns drawn with ``generator``; the c vertices are the columns, or the rows when
    rows < columns. Float64.
    """
    count = min(rows, columns)
    _check_simplex(count)
    frame = _orthonormal_columns(max(rows, columns), count, generator)
    weight = math.sqrt(count / (count - 1)) * (frame - frame.mean(dim=1, keepdim=True))
    return weight if rows >= columns else weight.T


class ETFClassifier(nn.Module):
    """A fixed classifier whose class weights are the vertices of a simplex ETF; nothing but a bias is ever trained.

    Logits of unit-norm features lie in [-1, 1], so it is meant for features whose norm is free (no projector).
    Source: Yang et al., NeurIPS 2022 (arXiv 2203.09081); with a trained bias for label sets of several sizes, Li et
    al., ICML 2024.

    Args:
        in_features: d, the width of the features.
        num_classes: K, at most d + 1.
        seed: of the random rotation of the vertices.
        bias: a trainable bias, zero at first.

    Example:
        >>> classifier = ETFClassifier(in_features=4, num_classes=3)
        >>> classifier(torch.zeros(2, 4)).shape, list(classifier.parameters())
        (torch.Size([2, 3]), [])
    """

    weight: torch.Tensor

    def __init__(self, in_features: int, num_classes: int, *, seed: int = 0, bias: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, num_classes
        vertices = simplex_vertices(num_classes, in_features, seed=seed, dtype=torch.get_default_dtype())
        self.register_buffer("weight", vertices)
        self.bias = nn.Parameter(torch.zeros(num_classes)) if bias else None

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, K) of features (B, d)."""
        return F.linear(features, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Return what `print` shows in the brackets."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


def _check_simplex(count: int) -> None:
    if count < 2:
        raise UserError(f"A simplex ETF needs at least 2 vertices, got {count}: make the projector wider.")


def _helmert(count: int) -> torch.Tensor:
    """Orthonormal basis (K, K-1) of the vectors of length K that sum to zero."""
    index = torch.arange(1, count, dtype=torch.float64)
    above = torch.triu(torch.ones(count, count - 1, dtype=torch.float64))
    rows = torch.arange(count)[:, None]
    below = (rows == torch.arange(1, count)[None, :]).double() * index
    return (above - below) / torch.sqrt(index * (index + 1))


def _orthonormal_columns(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    gaussian = torch.randn(rows, columns, dtype=torch.float64, generator=generator)
    frame, triangle = torch.linalg.qr(gaussian)
    # QR fixes each column only up to its sign, which LAPACK builds choose differently.
    signs = torch.sign(torch.diagonal(triangle))
    return frame * torch.where(signs == 0, torch.ones_like(signs), signs)
