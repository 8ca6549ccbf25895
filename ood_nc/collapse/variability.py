"""Within-class variability (NC1): traces and their ratios, pseudo-inverse form, distance-normalised variance, index."""

from __future__ import annotations

import torch
from scipy.linalg import lapack

from ood_nc.collapse._common import EPS, Center, UndefinedMetricError, lapack_threads
from ood_nc.collapse._pairs import pair_distances
from ood_nc.collapse.registry import RIGID, collapse_metric
from ood_nc.collapse.statistics import ClassStatistics


@collapse_metric("tr Sigma_W", "Rangamani et al. 2023", invariances=RIGID)
def trace_within(stats: ClassStatistics) -> float:
    """tr Sigma_W: mean squared distance of a sample to its class mean.

    Example:
        >>> from ood_nc.collapse import ClassStatistics, trace_within
        >>> stats = ClassStatistics(2, 1).update([[0.0], [2.0], [5.0], [7.0]], [0, 0, 1, 1])
        >>> trace_within(stats)
        1.0
    """
    return float(stats.scatter_traces.sum() / stats.counts.sum())


@collapse_metric("tr Sigma_B", "Rangamani et al. 2023", collapsed=None, invariances=RIGID)
def trace_between(stats: ClassStatistics, center: Center = "classes") -> float:
    """tr Sigma_B: mean squared distance of the class means to the global mean; 0 where all class means coincide.

    Example:
        >>> from ood_nc.collapse import ClassStatistics, trace_between
        >>> stats = ClassStatistics(2, 1).update([[0.0], [2.0], [5.0], [7.0]], [0, 0, 1, 1])
        >>> trace_between(stats)
        6.25
    """
    return _trace_between(stats, center)[0]


@collapse_metric("tr Sigma_W / tr Sigma_B", "trace form of NC1")
def nc1_ratio(stats: ClassStatistics, center: Center = "classes") -> float:
    """tr Sigma_W / tr Sigma_B.

    Raises:
        UndefinedMetricError: the class means coincide.

    Example:
        >>> from ood_nc.collapse import ClassStatistics, nc1_ratio
        >>> stats = ClassStatistics(2, 1).update([[0.0], [2.0], [5.0], [7.0]], [0, 0, 1, 1])
        >>> nc1_ratio(stats)
        0.16
    """
    return trace_within(stats) / _positive_trace_between(stats, center)


@collapse_metric("mean of v_c / tr Sigma_B", "NC1 with equal class weights")
def nc1_ratio_balanced(stats: ClassStatistics, center: Center = "classes") -> float:
    """(mean over classes of v_c) / tr Sigma_B: every class counts the same, however many samples it has.

    Raises:
        UndefinedMetricError: the class means coincide.

    Example:
        >>> from ood_nc.collapse import ClassStatistics, nc1_ratio_balanced
        >>> stats = ClassStatistics(2, 1).update([[0.0], [2.0], [5.0], [7.0]], [0, 0, 1, 1])
        >>> nc1_ratio_balanced(stats)
        0.16
    """
    return float(stats.class_variances[stats.present].mean()) / _positive_trace_between(stats, center)


@collapse_metric("tr Sigma_W / (tr Sigma_W + tr Sigma_B)", "Rangamani et al. 2023")
def within_share(stats: ClassStatistics, center: Center = "classes") -> float:
    """tr Sigma_W / (tr Sigma_W + tr Sigma_B), in [0, 1] (Rangamani et al., ICML 2023).

    Raises:
        UndefinedMetricError: all features are equal.

    Example:
        >>> from ood_nc.collapse import ClassStatistics, within_share
        >>> stats = ClassStatistics(2, 1).update([[0.0], [2.0], [5.0], [7.0]], [0, 0, 1, 1])
        >>> round(within_share(stats), 3)
        0.138
    """
    within, (between, resolution) = trace_within(stats), _trace_between(stats, center)
    if within + between <= resolution:
        raise UndefinedMetricError("all features are equal.")
    return within / (within + between)


@collapse_metric("tr(Sigma_W Sigma_B^+) / C", "Papyan et al. 2020", memory="O(C d + d^2)")
def nc1_pinv(stats: ClassStatistics, center: Center = "classes") -> float:
    """tr(Sigma_W Sigma_B^+) / C (Papyan, Han, Donoho, PNAS 2020).

    Evaluated in the span of the class means: with M = U S V', it is sum_k v_k' Sigma_W v_k / s_k^2, over the directions
    whose s_k is above the rounding of the means (at most min(C - 1, d) of them).

    Raises:
        UndefinedMetricError: no d x d scatter, or the class means coincide.

    Example:
        >>> from ood_nc.collapse import ClassStatistics, nc1_pinv
        >>> stats = ClassStatistics(2, 1).update([[0.0], [2.0], [5.0], [7.0]], [0, 0, 1, 1])
        >>> round(nc1_pinv(stats), 3)
        0.08
    """
    stats.require_scatter()
    _positive_trace_between(stats, center)
    # The axes first: their decomposition and the covariance need not be held at the same time.
    values, directions = principal_axes(stats.centered_means(center), means_resolution(stats))
    within = stats.within
    # A block of directions at a time: their products would need as much memory as the means again.
    spread = torch.cat([((within @ part) * part).sum(dim=0) for part in directions.split(256, dim=1)])
    return float((spread / values).sum())


@collapse_metric(
    "1 - tr(Sigma_T^+ Sigma_B) / min(d, C - 1)",
    "Xu and Liu 2023",
    invariances=("shift", "linear"),
    memory="O(C d + d^2)",
)
def vci(stats: ClassStatistics, center: Center = "classes") -> float:
    """Variability collapse index 1 - tr(Sigma_T^+ Sigma_B) / min(d, C - 1), Sigma_T = Sigma_W + Sigma_B, in [0, 1].

    Xu and Liu (ICML 2023). Unlike a ratio of traces it does not change under any invertible linear map of the features.

    Raises:
        UndefinedMetricError: no d x d scatter, or the class means coincide.

    Example:
        >>> from ood_nc.collapse import ClassStatistics, vci
        >>> stats = ClassStatistics(2, 1).update([[0.0], [2.0], [5.0], [7.0]], [0, 0, 1, 1])
        >>> round(vci(stats), 3)
        0.138
    """
    stats.require_scatter()
    _positive_trace_between(stats, center)
    means = stats.centered_means(center)
    classes, dim = means.shape
    total = stats.within_plus(means / classes**0.5)
    noise = 4 * stats.resolution * stats.largest_variance
    explained = _explained(total, means, noise) / classes
    return min(max(1 - explained / min(dim, classes - 1), 0.0), 1.0)


@collapse_metric("mean over pairs of (v_i + v_j) / (2 |mu_i - mu_j|^2)", "Galanti et al. 2022")
def cdnv(stats: ClassStatistics) -> float:
    """Class-distance normalised variance: mean over pairs i != j of (v_i + v_j) / (2 |mu_i - mu_j|^2).

    Galanti, Gyorgy, Hutter (ICLR 2022).

    Raises:
        UndefinedMetricError: fewer than two classes, or two class means coincide.

    Example:
        >>> from ood_nc.collapse import ClassStatistics, cdnv
        >>> stats = ClassStatistics(2, 1).update([[0.0], [2.0], [5.0], [7.0]], [0, 0, 1, 1])
        >>> cdnv(stats)
        0.04
    """
    return float(cdnv_per_class(stats).mean())


def cdnv_per_class(stats: ClassStatistics) -> torch.Tensor:
    """Mean over the other classes of the class-distance normalised variance (K,), for the classes that have samples.

    Raises:
        UndefinedMetricError: fewer than two classes, or two class means coincide.

    Example:
        >>> from ood_nc.collapse import ClassStatistics, cdnv_per_class
        >>> stats = ClassStatistics(2, 1).update([[0.0], [2.0], [5.0], [7.0]], [0, 0, 1, 1])
        >>> cdnv_per_class(stats).tolist()
        [0.04, 0.04]
    """
    means = stats.centered_means()
    variances = stats.class_variances[stats.present]
    _require_classes(len(means))
    result = torch.empty_like(variances)
    for rows, squares in pair_distances(means):
        if bool((squares <= means_resolution(stats) ** 2).any()):
            raise UndefinedMetricError("two class means coincide.")
        result[rows] = ((variances[rows, None] + variances) / (2 * squares)).masked_fill(squares.isinf(), 0).sum(dim=1)
    return result / (len(means) - 1)


def means_resolution(stats: ClassStatistics) -> float:
    """Length below which a difference of class means is rounding: some units in the last place of the longest mean.

    At least 1e-150, whose square is the last that float64 holds to all its digits.
    """
    return max(16 * EPS * stats.longest_mean, 1e-150)


def principal_axes(means: torch.Tensor, resolution: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the non-zero eigenvalues (r,) of M'M and their eigenvectors (d, r), for centred means M (C, d)."""
    classes, dim = means.shape
    rank = min(classes - 1, dim)
    gram = means @ means.T if classes <= dim else means.T @ means
    squares, vectors = torch.linalg.eigh(gram)
    squares, vectors = squares[-rank:], vectors[:, -rank:]
    # The Gram matrix has squared the condition of the means: below this ratio only their own decomposition keeps 1e-9.
    if float(squares[0]) > 1e-6 * float(squares[-1]) and float(squares[0]) > resolution**2:
        axes = means.T @ vectors / squares.sqrt() if classes <= dim else vectors
        return squares, axes
    _, lengths, axes_t = torch.linalg.svd(means, full_matrices=False)
    threshold = max(resolution, max(means.shape) * EPS * float(lengths[0]))
    kept = lengths[:rank] > threshold
    return lengths[:rank][kept].square(), axes_t[:rank][kept].T


def _explained(total: torch.Tensor, means: torch.Tensor, noise: float) -> float:
    """tr(M Sigma_T^+ M'), Sigma_T valid on and above the diagonal."""
    scale = total.diagonal().clamp_min(0).sqrt()
    alive = scale > 0
    if not bool(alive.all()):
        total, means, scale = total[alive][:, alive], means[:, alive], scale[alive]
    factor = _lower_factor(total)
    if factor is not None and _is_well_conditioned(factor, scale):
        # A few class means at a time: the solution needs as much memory as its right side.
        width = max(16, means.shape[1] // 16)
        solved = (torch.linalg.solve_triangular(factor, part.T, upper=False) for part in means.split(width))
        return float(sum(part.square_().sum() for part in solved))
    values, vectors = torch.linalg.eigh(total, UPLO="U")
    kept = values > max(len(total) * EPS * float(values[-1]), noise)
    projected = means @ vectors[:, kept]
    return float((projected.square() / values[kept]).sum())


def _lower_factor(total: torch.Tensor) -> torch.Tensor | None:
    """L (d, d) of L L' = ``total``, both with one valid triangle; None where it is not positive definite."""
    if total.device.type == "cpu":
        # Torch would clear the other triangle first, down its columns, which takes longer than the rest.
        with lapack_threads(len(total)):
            array, failed = lapack.dpotrf(total.numpy().T, lower=1, clean=0)
        return None if failed else torch.from_numpy(array)
    factor, info = torch.linalg.cholesky_ex(total.mT)
    return None if int(info) else factor


def _is_well_conditioned(factor: torch.Tensor, scale: torch.Tensor) -> bool:
    """Whether L L', scaled to a unit diagonal, has no eigenvalue below 1e-7, by a few steps of inverse iteration."""
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(len(factor), 1, generator=generator, dtype=torch.float64).to(factor.device)
    growth = 0.0
    for _ in range(4):
        vector = vector / torch.linalg.vector_norm(vector)
        # Two solutions in place of one call that would copy the factor.
        half = torch.linalg.solve_triangular(factor, scale[:, None] * vector, upper=False)
        vector = scale[:, None] * torch.linalg.solve_triangular(factor.mT, half, upper=True)
        growth = float(torch.linalg.vector_norm(vector))
    return growth < 1e7


def _trace_between(stats: ClassStatistics, center: Center) -> tuple[float, float]:
    means = stats.centered_means(center)
    return float(means.square().sum() / len(means)), means_resolution(stats) ** 2


def _positive_trace_between(stats: ClassStatistics, center: Center) -> float:
    between, resolution = _trace_between(stats, center)
    _require_classes(len(stats.present))
    if between <= resolution:
        raise UndefinedMetricError("the class means coincide: tr Sigma_B is 0.")
    return between


def _require_classes(count: int) -> None:
    if count < 2:
        raise UndefinedMetricError(
            f"needs at least 2 classes with samples, there {'is' if count == 1 else 'are'} {count}."
        )
