"""Whitening: factors of inverse covariances, and distances under them.

Every W here has zeros above its diagonal, which a product leaves out.

Example:
    The Mahalanobis distance of a sample to the nearer of two class means:

    >>> import torch
    >>> from ood_nc.detection.kit import linalg, scatter
    >>> from ood_nc.detection.kit.whitening import whiten, whitening
    >>> rows = torch.tensor([[0.0, 0.0], [2.0, 0.0], [5.0, 1.0], [5.0, -1.0]])
    >>> labels = torch.tensor([0, 0, 1, 1])
    >>> means = linalg.class_sums(rows, labels, 2) / 2
    >>> covariance = scatter.centered_scatter(rows, means, labels) / len(rows)
    >>> factor = whitening(covariance)
    >>> whitened = whiten(torch.tensor([[1.0, 3.0]], dtype=torch.float64), factor)
    >>> linalg.nearest_squared_distance(whitened, means @ factor)
    tensor([18.0000], dtype=torch.float64)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ood_nc import accumulate
from ood_nc.detection.kit import linalg

_ROUNDING = 32 * 2**-23
"""Largest relative error seen of a float32 sum of products, in units of the root of the summed squares."""
_REGULAR = 1e-8
"""Smallest eigenvalue, as a share of a bound of the largest, of a matrix that is inverted without knowing its rank."""


def whitening(covariance: Tensor, decompose: Callable[[], linalg.Eigen] | None = None) -> Tensor:
    """W (d, r) with W W' the pseudo-inverse of a covariance (d, d), r its rank.

    Of the many such W this is the one with zeros above the diagonal, which :func:`whiten` multiplies by at little more
    than half the price.

    Args:
        covariance: (d, d) float64.
        decompose: gives its eigen-decomposition, which is asked for where it is near to losing rank.
    """
    reversed_ = covariance.flip(0, 1)
    least = _REGULAR * torch.linalg.matrix_norm(covariance, torch.inf)
    shifted = reversed_ - least * torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    # It has a factor only where each eigenvalue is above what is taken off.
    if not int(torch.linalg.cholesky_ex(shifted).info):
        return triangular_whitening(covariance)[0]
    decomposition = linalg.eigen(covariance) if decompose is None else decompose()
    return _of_rank(decomposition)


def triangular_whitening(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """W (d, d), zeros above the diagonal, with W W' the inverse of a regular covariance, and its log determinant.

    Raises:
        torch.linalg.LinAlgError: the covariance is singular.
    """
    # The factor of the matrix in reversed order, reversed again, is the upper triangular U of U U' = covariance.
    upper = torch.linalg.cholesky(covariance.flip(0, 1)).flip(0, 1)
    identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    matrix = torch.linalg.solve_triangular(upper.T, identity, upper=False)
    return matrix.contiguous(), 2 * upper.diagonal().log().sum()


def square_whitening(covariance: Tensor) -> Tensor:
    """W (d, d), zeros above the diagonal, with W W' the pseudo-inverse of a covariance.

    Where the rank is less than d its last columns are zero, so that the W of several covariances form one tensor.
    """
    matrix = whitening(covariance)
    padded = covariance.new_zeros(covariance.shape)
    padded[:, : matrix.shape[1]] = matrix
    return padded


def _of_rank(decomposition: linalg.Eigen) -> Tensor:
    rank = decomposition.rank()
    scaled = decomposition.vectors[:, :rank] / decomposition.values[:rank].sqrt()
    triangular: Tensor = torch.linalg.qr(scaled.T)[1].T.contiguous()
    return triangular


def whiten(rows: Tensor, matrix: Tensor) -> Tensor:
    """``rows @ matrix`` for a matrix from :func:`whitening`, in strips that leave out its zeros.

    The result (n, r) lies in memory column by column: strips are then written one after another.
    """
    if torch.compiler.is_compiling():
        return torch.mm(rows, matrix)
    columns = rows.new_empty(matrix.shape[1], len(rows))
    for strip in _strips(matrix.shape[1]):
        torch.mm(matrix[strip.start :, strip].T, rows.T[strip.start :], out=columns[strip])
    return columns.T


def whitened_distance(rows: Tensor, origin: Tensor, matrix: Tensor, centers: Tensor) -> Tensor:
    """Squared distance of the rows (B, d), less ``origin`` and whitened, to the nearest center (C, r): (B,) float64.

    Rows of float32 are whitened in float32, except those whose distance, smaller than the terms that cancel in it,
    would show the rounding.

    Args:
        rows: (B, d).
        origin: (d,) float64.
        matrix: from :func:`whitening` (d, r).
        centers: whitened (C, r), float64.
    """

    def exact(part: Tensor) -> Tensor:
        return linalg.nearest_squared_distance(whiten(part.double() - origin, matrix), centers)

    if not linalg.float32_suffices(rows):
        return linalg.by_chunks(exact, rows)
    # Two float32 numbers, so that each difference rounds relative to itself, not to an offset of the rows.
    high, low = accumulate.split(origin.clone(), torch.float32)
    narrow = matrix.float()
    # Of the squared rounding: the norms of the terms that add up to a whitened coordinate, over those coordinates.
    weights = matrix.square().sum(dim=1).float() * (_ROUNDING / linalg.TRUSTED) ** 2 / max(1, matrix.shape[1])
    collapsed = False

    def distance(part: Tensor) -> Tensor:
        """Those of some rows, in float32 until most of them need float64."""
        nonlocal collapsed
        if collapsed:
            return exact(part)
        centered = (part.float() - high).sub_(low)
        squares = linalg.nearest_squared_distance(whiten(centered, narrow).double(), centers)
        doubtful = torch.nonzero(~(squares > torch.mv(centered.square_(), weights)))[:, 0]
        if len(doubtful):
            squares[doubtful] = exact(part[doubtful])
        # The rows to come are no better: not twice for each of them.
        collapsed = 2 * len(doubtful) > len(part)
        return squares

    return linalg.by_chunks(distance, rows)


def whitened_distances(rows: Tensor, means: Tensor, whitenings: Tensor) -> Tensor:
    """Squared distance of each row (B, d) to each mean (K, d) under that mean's own whitening (K, d, d): (B, K).

    Example:
        >>> whitenings = torch.stack([torch.eye(2), torch.eye(2) / 3])
        >>> whitened_distances(torch.tensor([[3.0, 0.0]]), torch.zeros(2, 2), whitenings)
        tensor([[9., 1.]])
    """
    distances = []
    for mean, whitening in zip(means, whitenings, strict=True):
        whitened = whiten(rows - mean, whitening)
        distances.append(torch.linalg.vecdot(whitened, whitened))
    return torch.stack(distances, dim=1)


def _strips(dim: int) -> list[slice]:
    width = max(64, -(-dim // 8))
    return [slice(start, min(start + width, dim)) for start in range(0, dim, width)]
