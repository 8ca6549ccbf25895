"""Spectra: effective rank of the features, and alignment of class means with the next layer's weight (PABS)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.linalg import eigvalsh_tridiagonal, lapack

from ood_nc import accumulate
from ood_nc.arrays import ArrayLike, as_tensor
from ood_nc.collapse._common import EPS, UndefinedMetricError, as_head, lapack_threads
from ood_nc.collapse.registry import collapse_metric
from ood_nc.collapse.statistics import ClassStatistics
from ood_nc.errors import UserError


class MomentSpectra(NamedTuple):
    """Eigenvalues (d,), ascending, of the second moment of features, centred on the sample mean and as they are."""

    centered: np.ndarray[Any, np.dtype[np.float64]]
    uncentered: np.ndarray[Any, np.dtype[np.float64]]


def moment_spectra(stats: ClassStatistics) -> MomentSpectra:
    """Both spectra from one reduction to a tridiagonal matrix.

    The space is turned so that the sample mean lies along its last axis, which the reduction leaves as it is: the two
    tridiagonal matrices then differ in their last entry alone.

    Raises:
        UndefinedMetricError: no d x d scatter, or no samples.
    """
    stats.require_scatter()
    mass, mean = stats.counts[stats.present], stats.sample_mean
    rows = stats.uncentered_means.sub_(mean).mul_((mass / mass.sum()).sqrt()[:, None])
    moment = accumulate.fill_lower(stats.within_plus(rows))
    # The decomposition needs as much memory as the moment again: the means make room for it.
    del rows
    length = torch.linalg.vector_norm(mean)
    if length > 0:
        axis = mean / length
        axis[-1] += axis[-1].sign() or 1.0
        axis /= torch.linalg.vector_norm(axis)
        image = moment @ axis
        image -= (axis @ image) * axis
        moment.addr_(axis, image, alpha=-2).addr_(image, axis, alpha=-2)
    # Transposed: in the order of LAPACK, which then works in place.
    matrix = moment.cpu().numpy().T
    with lapack_threads(len(matrix)):
        _, diagonal, beside, _, failed = lapack.dsytrd(matrix, lwork=64 * len(matrix), overwrite_a=True)
    if failed:
        raise RuntimeError(f"dsytrd: argument {-failed}.")
    lifted = diagonal.copy()
    lifted[-1] += float(length) ** 2
    if len(diagonal) == 1:  # SciPy before 1.13 wants an element beside it
        return MomentSpectra(diagonal, lifted)
    return MomentSpectra(*(eigvalsh_tridiagonal(one, beside, lapack_driver="sterf") for one in (diagonal, lifted)))


@collapse_metric(
    "exp(entropy of the singular values), centred features",
    "Roy and Vetterli 2007",
    lambda layer: _effective_rank(layer.moment_spectra, layer.stats, centered=True),
    memory="O(C d + d^2)",
)
def effective_rank(stats: ClassStatistics, *, centered: bool = True) -> float:
    """exp(entropy of the normalised singular values) of the feature matrix (Roy and Vetterli, 2007).

    Under exact collapse C - 1 when centred (on the sample mean), C when not. The singular values are the square roots
    of the eigenvalues of the second moment, so those below its rounding count as 0: about 1e-7 of the largest one, and
    7e-4 of the largest within-class one after float32 products.

    Raises:
        UndefinedMetricError: no d x d scatter, or all features equal (all 0, when not centred).

    Example:
        >>> import torch
        >>> from ood_nc.collapse import ClassStatistics, effective_rank
        >>> stats = ClassStatistics(3, 3).update(torch.eye(3), [0, 1, 2])
        >>> round(effective_rank(stats), 3), round(effective_rank(stats, centered=False), 3)
        (2.0, 3.0)
    """
    return _effective_rank(moment_spectra(stats), stats, centered=centered)


def _effective_rank(spectra: MomentSpectra, stats: ClassStatistics, *, centered: bool) -> float:
    values = spectra.centered if centered else spectra.uncentered
    largest = accumulate.largest_magnitude(stats.uncentered_means)
    # The scatter knows nothing below its own rounding, and the class means nothing below theirs.
    noise = max(
        4 * stats.resolution * stats.largest_variance, (EPS * largest) ** 2, stats.dim * EPS * float(values[-1])
    )
    kept = values[values > noise]
    if not len(kept):
        raise UndefinedMetricError("all features are equal." if centered else "all features are 0.")
    lengths = np.sqrt(kept)
    shares = lengths / lengths.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


@collapse_metric(
    "exp(entropy of the singular values), features as they are",
    "Harun et al. 2025",
    lambda layer: _effective_rank(layer.moment_spectra, layer.stats, centered=False),
    invariances=("scale", "rotation"),
    memory="O(C d + d^2)",
)
def effective_rank_uncentered(stats: ClassStatistics) -> float:
    """`effective_rank` of the features as they are."""
    return effective_rank(stats, centered=False)


def pabs(means: ArrayLike | ClassStatistics, weight: ArrayLike, rank: int | None = None) -> float:
    """Mean cosine of the principal angles between class means and the next layer's weight.

    Rangamani et al. (ICML 2023). The two spaces are the span of the (uncentred) class means and that of the top right
    singular vectors of the weight; the mean runs over ``rank`` angles; directions that
    one of the two lacks count as cosine 0.

    Args:
        means: class means (C, d) of the layer's inputs, or their statistics.
        weight: the layer's weight (out, d).
        rank: number of angles r, at most d; C when not given.

    Raises:
        UndefinedMetricError: the means or the weight are 0.
        UserError: shapes that do not fit, or a rank below 1.

    Example:
        >>> import torch
        >>> from ood_nc.collapse import pabs
        >>> pabs(torch.eye(3)[:2], weight=torch.eye(3)[:1]), pabs(torch.eye(3)[:2], weight=torch.eye(3)[2:])
        (0.5, 0.0)
    """
    rows = means.uncentered_means if isinstance(means, ClassStatistics) else as_tensor(means, "means").double()
    if rows.ndim != 2:
        raise UserError(f"means must have shape (C, d), got {tuple(rows.shape)}. For feature maps use pabs_conv.")
    head = as_head(weight, rows.shape[1]).to(rows.device)
    kept = _checked_rank(len(rows) if rank is None else rank, rows.shape[1])
    return _mean_cosine(_leading_axes(rows.T, None), head.T, kept)


def pabs_conv(means: ArrayLike, weight: ArrayLike, rank: int = 10) -> float:
    """`pabs` of a convolution, in the space of its input channels.

    Args:
        means: unpooled class means (C, C_in, H, W) of the layer's inputs.
        weight: the convolution's weight (C_out, C_in, k, k).
        rank: number of leading left singular vectors of both sides (10 in the paper's figures).

    Raises:
        UndefinedMetricError: the means or the weight are 0.
        UserError: shapes that do not fit, or a rank below 1.

    Example:
        >>> import torch
        >>> from ood_nc.collapse import pabs_conv
        >>> maps, kernel = torch.ones(2, 3, 4, 4), torch.ones(5, 3, 1, 1)
        >>> round(pabs_conv(maps, kernel, rank=1), 3)
        1.0
    """
    maps, kernel = as_tensor(means, "means").double(), as_tensor(weight, "weight").double()
    if maps.ndim != 4 or kernel.ndim != 4 or maps.shape[1] != kernel.shape[1]:
        raise UserError(
            f"means (C, C_in, H, W) and weight (C_out, C_in, k, k) must share C_in, got {tuple(maps.shape)} "
            f"and {tuple(kernel.shape)}."
        )
    channels = maps.shape[1]
    rank = _checked_rank(rank, channels)
    inputs = maps.transpose(0, 1).reshape(channels, -1)
    return _mean_cosine(_leading_axes(inputs, rank), kernel.transpose(0, 1).reshape(channels, -1).to(maps.device), rank)


def _checked_rank(rank: int, dim: int) -> int:
    if rank < 1:
        raise UserError(f"rank must be at least 1, got {rank}.")
    return min(rank, dim)


def _mean_cosine(axes: torch.Tensor, columns: torch.Tensor, rank: int) -> float:
    cosines = torch.linalg.svdvals(axes.T @ _leading_axes(columns, rank))
    return float(cosines[:rank].clamp(max=1).sum()) / rank


def _leading_axes(columns: torch.Tensor, rank: int | None) -> torch.Tensor:
    """Orthonormal basis of the span of the columns, or of its ``rank`` leading left singular vectors."""
    vectors: torch.Tensor
    vectors, lengths, _ = torch.linalg.svd(columns, full_matrices=False)
    kept = int((lengths > max(columns.shape) * EPS * lengths[0]).sum())
    if not kept:
        raise UndefinedMetricError("the class means or the weight are 0.")
    return vectors[:, : kept if rank is None else min(kept, rank)]
