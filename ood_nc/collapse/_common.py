"""What the metrics share: the error for an undefined value, and the pass over pairs of classes in blocks of rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, TypeAlias

import torch

from ood_nc.accumulate import is_finite, largest_magnitude
from ood_nc.arrays import ArrayLike, as_matrix, as_tensor
from ood_nc.errors import UserError
from ood_nc.threads import one_blas_thread

Center: TypeAlias = Literal["classes", "samples"]

# Elements of a block of pairs: 8 MB in float64, small beside the means of any problem with many classes.
_BLOCK_ELEMENTS = 1 << 20
_SMALL = 1024
"""Dimensions up to which threads of SciPy's own cost more than they give."""
EPS = float(torch.finfo(torch.float64).eps)


class UndefinedMetricError(UserError):
    """The metric has no value for these data; the message is the reason. `measure` reports it as None."""


def as_head(weight: ArrayLike, dim: int, name: str = "weight") -> torch.Tensor:
    """Return a head's weight (C, d) as a finite float64 matrix, or say which shape was expected."""
    matrix = finite(as_matrix(weight, name).double(), name)
    if matrix.shape[1] != dim:
        raise UserError(
            f"{name} must have shape (C, {dim}), as the features have {dim} columns; got {tuple(matrix.shape)}."
        )
    return matrix


def as_bias(bias: ArrayLike, classes: int) -> torch.Tensor:
    """Return a head's bias (C,) in float64, or say which shape was expected."""
    vector = finite(as_tensor(bias, "bias").double(), "bias")
    if vector.shape != (classes,):
        raise UserError(f"bias must have shape ({classes},), got {tuple(vector.shape)}.")
    return vector


def finite(values: torch.Tensor, name: str) -> torch.Tensor:
    """Return ``values``, or raise `UndefinedMetricError` where one is NaN or infinite."""
    if not is_finite(values):
        raise UndefinedMetricError(f"{name} holds NaN or infinity.")
    return values


def in_range(rows: torch.Tensor) -> torch.Tensor:
    """Return rows, for a metric that no scale changes, times a power of two where products would leave float64."""
    exponent = math.frexp(largest_magnitude(rows))[1]
    # Products of products need four times the exponent; a power of two changes no digit.
    return rows if abs(exponent) < 200 else torch.ldexp(rows, torch.tensor(max(-1000, min(1000, -exponent))))


def lapack_threads(dim: int) -> AbstractContextManager[None]:
    """Inside, SciPy's decompositions of (dim, dim) have the threads that are worth it."""
    return one_blas_thread() if dim <= _SMALL else nullcontext()


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Yield slices of ``rows`` so that a block of ``columns`` columns stays small whatever the number of classes."""
    step = max(1, min(rows, _BLOCK_ELEMENTS // max(columns, 1)))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def product_norm(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return |A B'|_F for A, B (K, d), 0 where it is rounding, without the K x K product where K > d."""
    if left.shape[0] > left.shape[1]:
        squares: torch.Tensor = ((left.T @ left) * (right.T @ right)).sum()
        bound = torch.linalg.vector_norm(left) * torch.linalg.vector_norm(right)
        # Terms of both signs: where they nearly cancel only the product itself keeps its digits.
        if float(squares) > 1e-6 * float(bound) ** 2:
            return squares.sqrt()
    blocks = (torch.linalg.vector_norm(left[rows] @ right.T) for rows in row_blocks(len(left), len(right)))
    return clean_norm(torch.linalg.vector_norm(torch.stack(list(blocks))), left, right)


def clean_norm(norm: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the norm of A B', or 0 where it is only the rounding of the product."""
    bound = torch.linalg.vector_norm(left) * torch.linalg.vector_norm(right)
    return norm.masked_fill(norm <= 16 * EPS * bound, 0.0)
