"""Within-class variability against loops, pseudo-inverses at the right rank, and closed forms."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ood_nc.collapse import (
    ClassStatistics,
    UndefinedMetricError,
    cdnv,
    cdnv_per_class,
    nc1_pinv,
    nc1_ratio,
    nc1_ratio_balanced,
    trace_between,
    trace_within,
    vci,
    within_share,
)
from ood_nc.collapse._common import Center
from ood_nc.collapse.variability import _lower_factor, means_resolution, principal_axes

Metric = Callable[[ClassStatistics], float]
RATIOS: list[Metric] = [nc1_ratio, nc1_ratio_balanced, within_share, nc1_pinv, vci, cdnv]


def problem(seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """A random problem: any of C > d, d > N, empty classes, single samples, imbalance, an offset, duplicate rows."""
    rng = np.random.default_rng(seed)
    classes, dim, n = int(rng.integers(2, 12)), int(rng.integers(1, 20)), int(rng.integers(2, 120))
    y = rng.choice(classes, n, p=rng.dirichlet(np.full(classes, rng.choice([0.2, 1.0, 50.0]))))
    y[:2] = rng.permutation(classes)[:2]
    centers = rng.normal(size=(classes, dim)) * rng.choice([0.3, 1.0, 10.0])
    h = centers[y] + rng.normal(size=(n, dim)) * rng.choice([0.01, 0.3, 2.0]) + rng.choice([0.0, 10.0])
    if n > 10 and rng.random() < 0.3:
        h[n // 2 :], y[n // 2 :] = h[: n - n // 2], y[: n - n // 2]
    return h, y, classes


def statistics(h: np.ndarray, y: np.ndarray, classes: int | None = None) -> ClassStatistics:
    return ClassStatistics(int(y.max()) + 1 if classes is None else classes, h.shape[1]).update(h, y)


def slow_metrics(h: np.ndarray, y: np.ndarray, center: Center) -> dict[str, float]:
    """Every metric from the samples, by loops; pseudo-inverses by SVD of the factors at the rank they must have."""
    present = np.unique(y)
    means = np.array([h[y == c].mean(axis=0) for c in present])
    variances = np.array(
        [np.mean([np.sum((row - m) ** 2) for row in h[y == c]]) for c, m in zip(present, means, strict=True)]
    )
    centered = means - (means.mean(axis=0) if center == "classes" else h.mean(axis=0))
    k, dim = centered.shape
    deviations = np.array([row - means[np.searchsorted(present, c)] for row, c in zip(h, y, strict=True)])
    within = sum(np.outer(row, row) for row in deviations) / len(h)
    between = sum(np.outer(row, row) for row in centered) / k
    values, vectors = np.linalg.eigh(between)
    rank = min(k - 1, dim)
    inverse = (vectors[:, -rank:] / values[-rank:]) @ vectors[:, -rank:].T
    _, lengths, axes = np.linalg.svd(np.vstack([deviations / np.sqrt(len(h)), centered / np.sqrt(k)]))
    kept = int((lengths > 1e-7 * lengths[0]).sum())
    explained = float((((centered @ axes[:kept].T) / lengths[:kept]) ** 2).sum()) / k
    pairs = [
        (variances[i] + variances[j]) / (2 * np.sum((means[i] - means[j]) ** 2))
        for i in range(k)
        for j in range(k)
        if i != j
    ]
    tw, tb = float(np.trace(within)), float(np.trace(between))
    return {
        "trace_within": tw,
        "trace_between": tb,
        "nc1_ratio": tw / tb,
        "nc1_ratio_balanced": float(variances.mean()) / tb,
        "within_share": tw / (tw + tb),
        "nc1_pinv": float(np.trace(within @ inverse)) / k,
        "vci": 1 - explained / rank,
        "cdnv": float(np.mean(pairs)),
    }


def check_problem(seed: int, center: Center) -> None:
    h, y, classes = problem(seed)
    stats = statistics(h, y, classes)
    expected = slow_metrics(h, y, center)
    assert trace_within(stats) == pytest.approx(expected["trace_within"], rel=1e-8, abs=1e-20)
    assert trace_between(stats, center) == pytest.approx(expected["trace_between"], rel=1e-8)
    assert nc1_ratio(stats, center) == pytest.approx(expected["nc1_ratio"], rel=1e-8, abs=1e-20)
    assert nc1_ratio_balanced(stats, center) == pytest.approx(expected["nc1_ratio_balanced"], rel=1e-8, abs=1e-20)
    assert within_share(stats, center) == pytest.approx(expected["within_share"], rel=1e-8, abs=1e-20)
    assert nc1_pinv(stats, center) == pytest.approx(expected["nc1_pinv"], rel=1e-8, abs=1e-20)
    assert vci(stats, center) == pytest.approx(expected["vci"], rel=1e-8, abs=1e-8)
    assert cdnv(stats) == pytest.approx(expected["cdnv"], rel=1e-8, abs=1e-20)


@pytest.mark.parametrize("center", ["classes", "samples"])
@pytest.mark.parametrize("seed", range(40))
def test_metrics_equal_their_definitions(seed: int, center: Center) -> None:
    check_problem(seed, center)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1200))
def test_metrics_equal_their_definitions_on_many_problems(seed: int) -> None:
    check_problem(seed, "classes")
    check_problem(seed, "samples")


def simplex_etf(classes: int, dim: int, seed: int = 0) -> np.ndarray:
    """Unit-norm vertices (C, d), turned at random."""
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))[0]
    return np.sqrt(classes / (classes - 1)) * (np.eye(classes) - 1 / classes) @ turn[:classes]


def around(means: np.ndarray, spread: float, n: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """n samples a class whose mean is exactly the given one."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(len(means), n, means.shape[1])) * spread
    noise -= noise.mean(axis=1, keepdims=True)
    return (means[:, None] + noise).reshape(-1, means.shape[1]), np.repeat(np.arange(len(means)), n)


@pytest.mark.parametrize(("classes", "dim"), [(2, 2), (3, 8), (10, 10), (10, 64)])
def test_simplex_etf_means_give_the_closed_forms(classes: int, dim: int) -> None:
    stats = statistics(*around(simplex_etf(classes, dim), 0.1))
    variance = trace_within(stats)
    assert trace_between(stats) == pytest.approx(1, rel=1e-12)
    assert nc1_ratio(stats) == pytest.approx(variance, rel=1e-12)
    assert within_share(stats) == pytest.approx(variance / (1 + variance), rel=1e-12)
    assert cdnv(stats) == pytest.approx(variance * (classes - 1) / (2 * classes), rel=1e-12)
    values = torch.linalg.eigvalsh(stats.between)
    torch.testing.assert_close(
        values[-(classes - 1) :], torch.full((classes - 1,), 1 / (classes - 1)).double(), rtol=1e-6, atol=1e-9
    )
    assert float(values[: -(classes - 1)].abs().max() if dim > classes - 1 else 0) < 1e-14
    # Sigma_B^+ is (C - 1) times the projection onto the span of the means.
    projection = stats.between * (classes - 1)
    expected = float(torch.trace(stats.within @ projection)) * (classes - 1) / classes
    assert nc1_pinv(stats) == pytest.approx(expected, rel=1e-9)


def test_isotropic_noise_gives_the_closed_form_of_vci_and_pinv() -> None:
    classes, dim, sigma = 4, 6, 0.3
    noise = np.vstack([np.eye(dim), -np.eye(dim)]) * sigma * np.sqrt(dim)
    h = (simplex_etf(classes, dim)[:, None] + noise).reshape(-1, dim)
    stats = statistics(h, np.repeat(np.arange(classes), 2 * dim))
    torch.testing.assert_close(stats.within, sigma**2 * torch.eye(dim).double(), rtol=1e-10, atol=1e-12)
    assert nc1_pinv(stats) == pytest.approx(sigma**2 * (classes - 1) ** 2 / classes, rel=1e-10)
    ratio = 1 / (classes - 1)
    assert vci(stats) == pytest.approx(1 - ratio / (ratio + sigma**2), rel=1e-10)


@pytest.mark.parametrize(("classes", "dim"), [(4, 10), (10, 10), (10, 3)])
def test_full_collapse_gives_zero(classes: int, dim: int) -> None:
    h = np.repeat(np.random.default_rng(0).normal(size=(classes, dim)), 5, axis=0)
    stats = statistics(h, np.repeat(np.arange(classes), 5))
    for metric in (nc1_ratio, nc1_ratio_balanced, within_share, nc1_pinv, cdnv):
        assert metric(stats) == pytest.approx(0, abs=1e-25)
    assert vci(stats) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("metric", [*RATIOS, trace_within, trace_between])
def test_a_shift_of_float64_features_changes_nothing(metric: Metric) -> None:
    for classes, dim in ((5, 12), (12, 5)):
        h, y = around(np.random.default_rng(1).normal(size=(classes, dim)), 0.3)
        assert metric(statistics(h + 1e4, y)) == pytest.approx(metric(statistics(h, y)), rel=1e-6)


@pytest.mark.parametrize("metric", RATIOS)
def test_a_rotation_and_a_change_of_scale_change_nothing(metric: Metric) -> None:
    h, y = around(np.random.default_rng(1).normal(size=(5, 8)), 0.3)
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(8, 8)))[0]
    for scale in (1e-30, 1e-3, 1e12, 1e60):
        assert metric(statistics(scale * h @ turn, y)) == pytest.approx(metric(statistics(h, y)), rel=1e-9)


@pytest.mark.parametrize("stretch", [1e2, 1e6])
def test_vci_does_not_change_under_a_linear_map(stretch: float) -> None:
    h, y = around(np.random.default_rng(1).normal(size=(5, 8)), 0.3)
    rng = np.random.default_rng(3)
    left, right = (np.linalg.qr(rng.normal(size=(8, 8)))[0] for _ in range(2))
    expected = vci(statistics(h, y))
    assert vci(statistics(h * np.geomspace(1, stretch, 8), y)) == pytest.approx(expected, rel=1e-8)
    if stretch < 1e3:
        mixed = h @ (left * np.geomspace(1, stretch, 8)) @ right
        assert vci(statistics(mixed, y)) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("dim", [1, 2, 70])
def test_the_factor_is_that_of_numpy_and_reads_the_upper_triangle_alone(dim: int) -> None:
    rows = np.random.default_rng(dim).normal(size=(2 * dim, dim))
    square = rows.T @ rows
    total = torch.from_numpy(np.triu(square) + np.tril(np.full_like(square, np.nan), -1))
    kept = total.clone()
    factor = _lower_factor(total)
    assert factor is not None
    np.testing.assert_allclose(factor.tril(), np.linalg.cholesky(square), rtol=1e-9, atol=1e-12)
    assert torch.equal(total.triu(), kept.triu())
    assert _lower_factor(-total) is None


@pytest.mark.parametrize("seed", range(8))
def test_vci_does_not_change_when_dependent_columns_are_added(seed: int) -> None:
    rng = np.random.default_rng(seed)
    h, y = around(rng.normal(size=(5, 6)), 0.3)
    expected = vci(statistics(h, y))
    # Rounding makes the dependent columns nearly, not exactly, dependent.
    assert vci(statistics(h @ rng.normal(size=(6, 9)), y)) == pytest.approx(expected, rel=1e-7)
    stretched = h * np.geomspace(1, 3e4, 6)
    assert vci(statistics(np.hstack([stretched, stretched[:, :2]]), y)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("metric", RATIOS)
@pytest.mark.parametrize(
    ("dtype", "rel"), [(torch.float16, 2e-2), (torch.bfloat16, 2e-1), (torch.float32, 1e-5), (torch.float64, 1e-12)]
)
def test_low_precision_features_stay_close(metric: Metric, dtype: torch.dtype, rel: float) -> None:
    h, y = around(np.random.default_rng(1).normal(size=(5, 8)), 0.3)
    low = torch.as_tensor(h).to(dtype)
    value = metric(ClassStatistics(5, 8).update(low, y))
    assert value == pytest.approx(metric(statistics(h, y)), rel=rel)
    assert value == pytest.approx(metric(statistics(low.double().numpy(), y)), rel=1e-5)


@pytest.mark.parametrize("metric", RATIOS)
def test_dead_and_repeated_columns_do_not_matter(metric: Metric) -> None:
    h, y = around(np.random.default_rng(1).normal(size=(4, 6)), 0.3)
    expected = metric(statistics(h, y))
    assert metric(statistics(np.hstack([h, np.zeros((len(h), 3))]), y)) == pytest.approx(expected, rel=1e-9)
    assert metric(statistics(np.hstack([h, h]) / np.sqrt(2), y)) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("metric", RATIOS)
def test_duplicated_samples_and_empty_classes_do_not_matter(metric: Metric) -> None:
    h, y = around(np.random.default_rng(1).normal(size=(4, 6)), 0.3)
    expected = metric(statistics(h, y))
    assert metric(statistics(np.vstack([h, h, h]), np.tile(y, 3))) == pytest.approx(expected, rel=1e-9)
    assert metric(statistics(h, 2 * y + 1, 20)) == pytest.approx(expected, rel=1e-9)


def test_balanced_ratio_ignores_an_imbalance_of_a_thousand_to_one() -> None:
    h, y = around(np.array([[1.0, 0], [-1, 0]]), 0.2, n=2)
    big = y == 0
    many = statistics(np.vstack([np.tile(h[big], (1000, 1)), h[~big]]), np.r_[np.zeros(2000, int), y[~big]])
    assert nc1_ratio_balanced(many) == pytest.approx(nc1_ratio_balanced(statistics(h, y)), rel=1e-9)
    assert cdnv(many) == pytest.approx(cdnv(statistics(h, y)), rel=1e-9)
    variances = many.class_variances
    assert trace_within(many) == pytest.approx(float(1000 * variances[0] + variances[1]) / 1001, rel=1e-9)


def test_metrics_without_the_scatter_matrix_need_only_traces() -> None:
    h, y, classes = problem(3)
    stats = ClassStatistics(classes, h.shape[1], full=False).update(h, y)
    for metric in (nc1_ratio, nc1_ratio_balanced, within_share, cdnv):
        assert metric(stats) == pytest.approx(metric(statistics(h, y, classes)), rel=1e-10)
    for metric in (nc1_pinv, vci):
        with pytest.raises(UndefinedMetricError, match="full=False"):
            metric(stats)


def test_cdnv_per_class_names_the_classes_that_overlap() -> None:
    h, y = around(np.array([[0.0, 0], [0, 1], [10, 0]]), 0.2)
    stats = statistics(2 * h, y, 5)
    v, mu = stats.class_variances.numpy(), 2 * np.array([[0.0, 0], [0, 1], [10, 0]])
    expected = [
        np.mean([(v[i] + v[j]) / (2 * np.sum((mu[i] - mu[j]) ** 2)) for j in range(3) if j != i]) for i in range(3)
    ]
    np.testing.assert_allclose(cdnv_per_class(stats), expected, rtol=1e-9)


def test_cdnv_keeps_its_digits_for_nearly_equal_means_and_many_classes() -> None:
    rng = np.random.default_rng(0)
    means = rng.normal(size=(1100, 3))
    means[1::2] = means[::2] + 1e-5 * rng.normal(size=(550, 3))
    h, y = np.vstack([means + 1e-7, means - 1e-7]), np.tile(np.arange(1100), 2)
    squares = ((means[:, None] - means) ** 2).sum(axis=2)
    np.fill_diagonal(squares, np.inf)
    expected = 3e-14 * (1 / squares).sum() / (1100 * 1099)
    assert cdnv(statistics(h, y)) == pytest.approx(expected, rel=1e-6)


def test_ill_conditioned_means_keep_their_pseudo_inverse() -> None:
    scales = np.array([1, 1e-2, 1e-5])
    means = simplex_etf(4, 4)
    means = means @ np.linalg.svd(means)[2][:3].T * scales
    h, y = around(means, 1e-6)
    expected = slow_metrics(h, y, "classes")["nc1_pinv"]
    assert nc1_pinv(statistics(h, y)) == pytest.approx(expected, rel=1e-5)
    values, axes = principal_axes(torch.as_tensor(means), 0.0)
    np.testing.assert_allclose(values, np.linalg.svd(means)[1] ** 2, rtol=1e-9)
    torch.testing.assert_close(axes.T @ axes, torch.eye(3).double(), rtol=0, atol=1e-10)


def test_principal_axes_leave_out_directions_that_are_rounding() -> None:
    flat = torch.tensor([[1.0, 0, 0], [2, 0, 0], [-3, 0, 0]]).double()
    for means in (flat, flat[:, :2]):
        values, axes = principal_axes(means, 1e-14)
        assert values.tolist() == pytest.approx([14])
        assert axes.abs().flatten().tolist() == pytest.approx([1] + [0] * (means.shape[1] - 1), abs=1e-12)


def test_pinv_of_means_on_a_line_is_that_of_the_line() -> None:
    means = np.array([[1.0, 0, 0], [2, 0, 0], [-3, 0, 0]])
    stats = statistics(*around(means + 7, 0.1))
    assert nc1_pinv(stats) == pytest.approx(float(stats.within[0, 0]) / (14 / 3) / 3, rel=1e-9)
    assert means_resolution(stats) < 1e-12


def test_coinciding_means_have_no_ratio() -> None:
    h, y = around(np.full((3, 4), 0.7), 0.2)
    stats = statistics(h, y)
    for metric in (nc1_ratio, nc1_ratio_balanced, nc1_pinv, vci, cdnv):
        with pytest.raises(UndefinedMetricError, match="coincide") as caught:
            metric(stats)
        assert "\n" not in str(caught.value)
    assert within_share(stats) == pytest.approx(1, rel=1e-12)
    assert trace_between(stats) == pytest.approx(0, abs=1e-28)


def test_equal_features_have_no_share() -> None:
    with pytest.raises(UndefinedMetricError, match="all features are equal"):
        within_share(statistics(np.full((6, 3), 0.1), np.arange(6) % 2))


def test_two_equal_means_among_others_leave_only_cdnv_undefined() -> None:
    h, y = around(np.array([[0.1, 0.3], [0.1, 0.3], [1, 0]]), 0.2)
    with pytest.raises(UndefinedMetricError, match="two class means coincide"):
        cdnv(statistics(h, y))
    assert 0 < nc1_ratio(statistics(h, y)) < 10


@pytest.mark.parametrize("metric", [nc1_ratio, nc1_ratio_balanced, nc1_pinv, vci, cdnv])
def test_one_class_has_no_metric(metric: Metric) -> None:
    with pytest.raises(UndefinedMetricError, match="at least 2 classes with samples, there is 1") as caught:
        metric(statistics(np.random.default_rng(0).normal(size=(5, 3)), np.full(5, 2), 4))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("metric", [*RATIOS, trace_within, trace_between])
def test_no_samples_have_no_metric(metric: Metric) -> None:
    with pytest.raises(UndefinedMetricError, match="no samples"):
        metric(ClassStatistics(3, 2))
