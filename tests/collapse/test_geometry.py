"""Geometry of class means and classifier against loops and closed forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ood_nc.collapse import (
    ClassStatistics,
    UndefinedMetricError,
    alignment_per_class,
    nc2_angle,
    nc2_angle_head,
    nc2_etf,
    nc2_etf_means,
    nc2_norm,
    nc2_norm_head,
    nc3_alignment,
    nc3_duality,
    nc3_papyan,
)
from ood_nc.collapse._common import Center, as_head, product_norm, row_blocks
from ood_nc.errors import UserError

MeansMetric = Callable[..., float]
OF_MEANS: list[MeansMetric] = [nc2_norm, nc2_angle, nc2_etf_means]
OF_HEAD: list[Callable[[Any], float]] = [nc2_norm_head, nc2_angle_head, nc2_etf]
OF_BOTH: list[MeansMetric] = [nc3_duality, nc3_papyan, nc3_alignment]


def problem(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, labels and a head: any of C > d, d > N, empty classes, single samples, imbalance, an offset."""
    rng = np.random.default_rng(seed)
    classes, dim, n = int(rng.integers(2, 12)), int(rng.integers(1, 20)), int(rng.integers(3, 80))
    y = rng.choice(classes, n, p=rng.dirichlet(np.full(classes, rng.choice([0.2, 1.0, 50.0]))))
    y[:2] = rng.permutation(classes)[:2]
    centers = rng.normal(size=(classes, dim))
    h = centers[y] + rng.normal(size=(n, dim)) * 0.3 + rng.choice([0.0, 10.0])
    return h, y, centers + rng.normal(size=(classes, dim)) * rng.choice([0.1, 1.0, 10.0])


def statistics(h: np.ndarray, y: np.ndarray, classes: int | None = None) -> ClassStatistics:
    return ClassStatistics(int(y.max()) + 1 if classes is None else classes, h.shape[1]).update(h, y)


def slow_means(h: np.ndarray, y: np.ndarray, center: Center) -> np.ndarray:
    means = np.array([sum(row for row, c in zip(h, y, strict=True) if c == k) / (y == k).sum() for k in np.unique(y)])
    return means - (means.mean(axis=0) if center == "classes" else h.mean(axis=0))


def cosine(left: np.ndarray, right: np.ndarray) -> float:
    return float(left @ right / np.sqrt(left @ left) / np.sqrt(right @ right))


def slow_norm(rows: np.ndarray) -> float:
    lengths = [float(np.sqrt(sum(x * x for x in row))) for row in rows]
    mean = sum(lengths) / len(lengths)
    return float(np.sqrt(sum((x - mean) ** 2 for x in lengths) / len(lengths)) / mean)


def slow_angle(rows: np.ndarray) -> float:
    k = len(rows)
    return float(np.mean([abs(cosine(rows[i], rows[j]) + 1 / (k - 1)) for i in range(k) for j in range(k) if i != j]))


def slow_etf(left: np.ndarray, right: np.ndarray) -> float:
    k = len(left)
    product = left @ right.T
    ideal = (np.eye(k) - np.ones((k, k)) / k) / np.sqrt(k - 1)
    return float(np.linalg.norm(product / np.linalg.norm(product) - ideal))


def check_problem(seed: int, center: Center) -> None:
    h, y, head = problem(seed)
    stats = statistics(h, y, len(head))
    means, rows = slow_means(h, y, center), head[np.unique(y)]
    assert nc2_norm(stats, center) == pytest.approx(slow_norm(means), rel=1e-8, abs=1e-10)
    assert nc2_angle(stats, center) == pytest.approx(slow_angle(means), rel=1e-8, abs=1e-10)
    assert nc2_etf_means(stats, center) == pytest.approx(slow_etf(means, means), rel=1e-8, abs=1e-8)
    assert nc2_norm_head(head) == pytest.approx(slow_norm(head), rel=1e-8, abs=1e-10)
    assert nc2_angle_head(head) == pytest.approx(slow_angle(head), rel=1e-8, abs=1e-10)
    assert nc2_etf(head) == pytest.approx(slow_etf(head, head), rel=1e-8, abs=1e-8)
    assert nc3_duality(stats, head, center) == pytest.approx(slow_etf(rows, means), rel=1e-8, abs=1e-8)
    papyan = float(np.linalg.norm(rows / np.linalg.norm(rows) - means / np.linalg.norm(means)))
    assert nc3_papyan(stats, head, center) == pytest.approx(papyan, rel=1e-8)
    cosines = [cosine(m, w) for m, w in zip(means, rows - rows.mean(axis=0), strict=True)]
    np.testing.assert_allclose(alignment_per_class(stats, head, center), cosines, rtol=1e-8, atol=1e-10)
    assert nc3_alignment(stats, head, center) == pytest.approx(np.mean(cosines), rel=1e-8, abs=1e-10)


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


def around(means: np.ndarray, spread: float, n: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """n samples a class whose mean is exactly the given one."""
    noise = np.random.default_rng(0).normal(size=(len(means), n, means.shape[1])) * spread
    noise -= noise.mean(axis=1, keepdims=True)
    return (means[:, None] + noise).reshape(-1, means.shape[1]), np.repeat(np.arange(len(means)), n)


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize(("classes", "dim"), [(2, 2), (3, 8), (10, 10), (10, 64), (100, 128)])
def test_a_simplex_etf_is_at_zero(classes: int, dim: int, offset: float) -> None:
    etf = simplex_etf(classes, dim)
    stats = statistics(*around(3 * etf + offset, 0.1))
    for metric in OF_MEANS:
        assert metric(stats) == pytest.approx(0, abs=1e-6)
    for head_metric in OF_HEAD:
        assert head_metric(7 * etf) == pytest.approx(0, abs=1e-6)
    assert nc3_duality(stats, 7 * etf) == pytest.approx(0, abs=1e-6)
    assert nc3_papyan(stats, 7 * etf) == pytest.approx(0, abs=1e-6)
    assert nc3_alignment(stats, 7 * etf + 5) == pytest.approx(1, abs=1e-6)
    assert nc3_papyan(stats, -etf) == pytest.approx(2, abs=1e-6)
    assert nc3_duality(stats, -etf) == pytest.approx(2, abs=1e-6)
    assert nc3_alignment(stats, -etf) == pytest.approx(-1, abs=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_orthonormal_rows_give_the_closed_forms(classes: int) -> None:
    head = np.eye(classes, classes + 2)
    assert nc2_norm_head(head) == 0
    assert nc2_angle_head(head) == pytest.approx(1 / (classes - 1), rel=1e-12)
    # <I/sqrt(C), (I - J/C)/sqrt(C - 1)> = sqrt((C - 1)/C), and both have unit norm.
    assert nc2_etf(head) == pytest.approx(np.sqrt(2 - 2 * np.sqrt((classes - 1) / classes)), rel=1e-10)
    # Once centred they are a simplex ETF.
    stats = statistics(head, np.arange(classes))
    assert nc2_etf_means(stats) == pytest.approx(0, abs=1e-10)
    assert nc3_duality(stats, head) == pytest.approx(0, abs=1e-10)
    assert nc3_alignment(stats, head) == pytest.approx(1, rel=1e-12)


def test_equal_rows_are_farthest_from_an_etf() -> None:
    head = np.ones((5, 3))
    assert nc2_etf(head) == pytest.approx(np.sqrt(2), rel=1e-12)
    assert nc2_angle_head(head) == pytest.approx(1.25, rel=1e-12)
    assert nc2_norm_head(head) == pytest.approx(0, abs=1e-15)


def test_lengths_one_and_three_vary_by_a_half() -> None:
    assert nc2_norm_head([[1.0, 0], [0, 3]]) == pytest.approx(0.5)
    stats = statistics(np.array([[1.0, 0], [1, 0], [1, 0], [-3, 0]]), np.array([0, 0, 0, 1]))
    assert nc2_norm(stats) == pytest.approx(0, abs=1e-15)
    assert nc2_norm(stats, "samples") == pytest.approx(0.5)


@pytest.mark.parametrize("metric", OF_MEANS)
def test_metrics_of_means_do_not_change_under_shift_scale_and_rotation(metric: MeansMetric) -> None:
    for classes, dim in ((5, 12), (12, 5)):
        h, y = around(np.random.default_rng(1).normal(size=(classes, dim)), 0.3)
        turn = np.linalg.qr(np.random.default_rng(2).normal(size=(dim, dim)))[0]
        expected = metric(statistics(h, y))
        assert metric(statistics(h + 1e4, y)) == pytest.approx(expected, rel=1e-6)
        for scale in (1e-30, 1e20):
            assert metric(statistics(scale * h @ turn, y)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("metric", OF_BOTH)
def test_metrics_of_means_and_head_do_not_change_under_shift_and_scale(metric: MeansMetric) -> None:
    for classes, dim in ((5, 12), (12, 5)):
        h, y = around(np.random.default_rng(1).normal(size=(classes, dim)), 0.3)
        head = np.random.default_rng(4).normal(size=(classes, dim))
        turn = np.linalg.qr(np.random.default_rng(2).normal(size=(dim, dim)))[0]
        expected = metric(statistics(h, y), head)
        assert metric(statistics(h + 1e4, y), head) == pytest.approx(expected, rel=1e-6)
        assert metric(statistics(1e-9 * h @ turn, y), 1e9 * head @ turn) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("metric", [*OF_MEANS, *OF_BOTH])
def test_duplicates_and_imbalance_and_empty_classes_do_not_matter(metric: MeansMetric) -> None:
    h, y = around(np.random.default_rng(1).normal(size=(4, 6)), 0.3, n=2)
    head = np.random.default_rng(4).normal(size=(4, 6))
    spread = np.full((9, 6), 50.0)
    spread[1::2] = head
    arguments, sparse = ((head,), (spread,)) if metric in OF_BOTH else ((), ())
    expected = metric(statistics(h, y), *arguments)
    repeats = np.where(y == 0, 1000, 1)
    assert metric(statistics(h.repeat(repeats, axis=0), y.repeat(repeats)), *arguments) == pytest.approx(
        expected, rel=1e-9
    )
    assert metric(statistics(h, 2 * y + 1, 9), *sparse) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_head_of_any_dtype_is_measured_at_its_own_values_and_left_unchanged(dtype: torch.dtype) -> None:
    h, y = around(np.random.default_rng(1).normal(size=(4, 6)), 0.3)
    stats = statistics(h, y)
    head = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    kept = head.detach().clone()
    for metric in OF_HEAD:
        assert metric(head) == metric(kept.double().numpy())
    for both in OF_BOTH:
        assert both(stats, head) == both(stats, kept.double().numpy())
    assert torch.equal(head.detach(), kept)


def test_many_classes_are_measured_in_blocks() -> None:
    head = np.random.default_rng(0).normal(size=(1500, 4))
    unit = head / np.linalg.norm(head, axis=1, keepdims=True)
    cosines = unit @ unit.T + 1 / 1499
    np.fill_diagonal(cosines, 0)
    assert nc2_angle_head(head) == pytest.approx(np.abs(cosines).sum() / (1500 * 1499), rel=1e-9)
    assert nc2_etf(head) == pytest.approx(slow_etf(head, head), rel=1e-9)
    assert [(rows.start, rows.stop) for rows in row_blocks(5, 1 << 19)] == [(0, 2), (2, 4), (4, 5)]


@pytest.mark.parametrize(("classes", "dim"), [(4, 9), (9, 4)])
def test_the_norm_of_a_product_keeps_its_digits_where_it_nearly_cancels(classes: int, dim: int) -> None:
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    left = rng.normal(size=(classes, dim // 2)) @ turn[: dim // 2]
    right = rng.normal(size=(classes, dim // 2)) @ turn[-(dim // 2) :]
    assert float(product_norm(torch.as_tensor(left), torch.as_tensor(right))) == 0
    for tilt in (1e-6, 1e-3, 1.0):
        tilted = right + tilt * left
        expected = tilt * np.linalg.norm(left @ left.T)
        assert float(product_norm(torch.as_tensor(left), torch.as_tensor(tilted))) == pytest.approx(expected, rel=1e-8)


def raises_in_one_line(match: str, call: Callable[..., Any], *arguments: Any) -> None:
    with pytest.raises(UserError, match=match) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("metric", OF_MEANS)
def test_metrics_of_means_need_two_distinct_classes(metric: MeansMetric) -> None:
    raises_in_one_line("no samples", metric, ClassStatistics(3, 2))
    raises_in_one_line("at least 2 classes", metric, statistics(np.ones((4, 2)), np.full(4, 1), 3))
    raises_in_one_line("coincide", metric, statistics(*around(np.full((3, 4), 0.7), 0.2)))


def test_a_class_mean_at_the_global_mean_has_no_direction() -> None:
    stats = statistics(*around(np.array([[0.1, 0.7], [0.2, 0.4], [0.3, 0.1]]), 0.2))
    raises_in_one_line("no direction", nc2_angle, stats)
    raises_in_one_line("no direction", alignment_per_class, stats, np.eye(3, 2))
    assert nc2_norm(stats) == pytest.approx(np.sqrt(0.5), rel=1e-9)


@pytest.mark.parametrize("metric", OF_HEAD)
def test_metrics_of_a_head_need_two_rows_that_are_not_zero(metric: Callable[[Any], float]) -> None:
    raises_in_one_line("at least 2 rows", metric, np.ones((1, 3)))
    raises_in_one_line("weight is 0", metric, np.zeros((3, 3)))
    raises_in_one_line("shape", metric, np.ones(3))


def test_a_zero_row_has_no_angle() -> None:
    raises_in_one_line("no direction", nc2_angle_head, [[1.0, 0], [0, 0], [0, 1]])


@pytest.mark.parametrize("metric", OF_BOTH)
def test_a_head_that_does_not_fit_is_refused(metric: MeansMetric) -> None:
    stats = statistics(*around(np.random.default_rng(1).normal(size=(3, 4)), 0.2))
    raises_in_one_line(r"weight must have shape \(C, 4\)", metric, stats, np.ones((3, 5)))
    raises_in_one_line("2 rows, the statistics 3", metric, stats, np.ones((2, 4)))
    raises_in_one_line("0|equals the mean row", metric, stats, np.zeros((3, 4)))


def test_a_head_across_the_means_has_no_duality() -> None:
    rng = np.random.default_rng(0)
    for classes, dim in ((3, 9), (9, 4)):
        turn = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
        stats = statistics(*around(rng.normal(size=(classes, 2)) @ turn[:2], 0.2))
        head = rng.normal(size=(classes, dim - 2)) @ turn[2:]
        raises_in_one_line("product of weight and class means is 0", nc3_duality, stats, head)


def test_equal_rows_of_a_head_have_no_alignment() -> None:
    stats = statistics(*around(np.random.default_rng(1).normal(size=(3, 5)), 0.2))
    with pytest.raises(UndefinedMetricError, match="equals the mean row"):
        alignment_per_class(stats, np.tile([0.1, 0.2, 0.3, 0.4, 0.7], (3, 1)))


def test_as_head_names_the_argument() -> None:
    assert as_head([[1.0, 2.0]], 2).dtype == torch.float64
    raises_in_one_line("probe must have shape", as_head, np.ones((2, 2)), 3, "probe")
