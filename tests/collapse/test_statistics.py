"""Streaming class statistics against a float64 loop over the samples."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from ood_nc.collapse import ClassStatistics, trace_within
from ood_nc.collapse._pending import check_finite
from tests.collapse.slow_statistics import assert_matches, assert_same, problem, slow_statistics


@pytest.mark.parametrize("seed", range(40))
def test_statistics_equal_a_loop_over_the_samples(seed: int) -> None:
    h, y, classes = problem(seed)
    stats = ClassStatistics(classes, h.shape[1]).update(h, y)
    assert_matches(stats, h, y)
    assert stats.num_samples == len(h)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1200))
def test_statistics_equal_a_loop_over_the_samples_on_many_problems(seed: int) -> None:
    h, y, classes = problem(seed)
    cut = len(h) // 3
    assert_matches(ClassStatistics(classes, h.shape[1]).update(h[:cut], y[:cut]).update(h[cut:], y[cut:]), h, y)


def test_threads_that_read_at_once_all_read_every_sample() -> None:
    generator = torch.Generator().manual_seed(0)
    h, y = torch.randn(2000, 128, generator=generator), torch.randint(0, 10, (2000,), generator=generator)
    means = torch.stack([h[y == c].mean(dim=0) for c in range(10)])
    expected = ((h - means[y]).T @ (h - means[y]) / len(h)).double()
    begin = threading.Barrier(4)

    def read(stats: ClassStatistics) -> torch.Tensor:
        begin.wait(timeout=10)
        return stats.within

    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            stats = ClassStatistics(10, 128).update(h, y)
            for within in pool.map(read, [stats] * 4):
                torch.testing.assert_close(within, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda stats: pickle.loads(pickle.dumps(stats))])
def test_a_copy_has_every_sample_and_goes_on_by_itself(copied: Callable[[ClassStatistics], ClassStatistics]) -> None:
    h, y, classes = problem(3)
    stats = ClassStatistics(classes, h.shape[1]).update(h[:5], y[:5])
    other = copied(stats).update(h[5:], y[5:])
    assert_matches(other, h, y)
    assert_matches(stats, h[:5], y[:5])


@pytest.mark.parametrize("seed", range(8))
def test_weights_count_a_sample_as_often_as_they_say(seed: int) -> None:
    h, y, classes = problem(seed)
    weights = np.random.default_rng(seed).integers(0, 4, len(h)).astype(np.float64)
    weights[0] = 1
    stats = ClassStatistics(classes, h.shape[1]).update(h, y, weights)
    assert_matches(stats, h, y, weights)
    repeats = weights.astype(int)
    repeated = ClassStatistics(classes, h.shape[1]).update(h.repeat(repeats, axis=0), y.repeat(repeats))
    assert_matches(repeated, h, y, weights)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_soft_labels_share_a_sample_between_classes(seed: int, weighted: bool) -> None:
    h, y, classes = problem(seed)
    rng = np.random.default_rng(seed)
    soft = 0.7 * np.eye(classes)[y] + 0.3 * rng.dirichlet(np.ones(classes), len(h))
    soft[:, -1] = 0
    weights = rng.uniform(0.1, 3, len(h)) if weighted else None
    cut = len(h) // 2
    stats = ClassStatistics(classes, h.shape[1])
    stats.update(h[:cut], soft[:cut], None if weights is None else weights[:cut])
    stats.update(h[cut:], soft[cut:], None if weights is None else weights[cut:])
    assert_matches(stats, h, soft, weights)


@pytest.mark.parametrize("full", [False, True])
def test_soft_labels_of_few_classes_each_equal_weighted_copies(full: bool) -> None:
    # Mixup: each sample counts in two of many classes, and a batch meets a part of them.
    rng = np.random.default_rng(9)
    h = 5 + rng.normal(size=(40, 6))
    pairs = np.stack([rng.permutation(30)[:2] for _ in h])
    share = rng.random(len(h))
    soft = np.zeros((len(h), 30))
    soft[np.arange(len(h)), pairs[:, 0]], soft[np.arange(len(h)), pairs[:, 1]] = share, 1 - share
    stats = ClassStatistics(30, 6, full=full)
    for start in range(0, len(h), 8):
        stats.update(h[start : start + 8], soft[start : start + 8])
    copies = np.concatenate([h, h])
    labels, weights = pairs.T.flatten(), np.concatenate([share, 1 - share])
    mass, means, variances, within = slow_statistics(copies, labels, 30, weights)
    np.testing.assert_allclose(stats.counts, mass, rtol=1e-12)
    np.testing.assert_allclose(stats.means, means, rtol=1e-12)
    np.testing.assert_allclose(stats.class_variances, variances, rtol=1e-10, atol=1e-12)
    if full:
        np.testing.assert_allclose(stats.within, within, rtol=1e-10, atol=1e-12)


def test_one_hot_soft_labels_equal_class_indices_and_mix_with_them() -> None:
    h, y, classes = problem(3)
    hard = ClassStatistics(classes, h.shape[1]).update(h, y)
    assert_same(ClassStatistics(classes, h.shape[1]).update(h, np.eye(classes, dtype=np.int64)[y]), hard)
    mixed = ClassStatistics(classes, h.shape[1]).update(h[:9], y[:9]).update(h[9:], np.eye(classes)[y[9:]])
    assert_same(mixed, hard)
    traces_only = ClassStatistics(classes, h.shape[1], full=False).update(h, np.eye(classes)[y])
    torch.testing.assert_close(traces_only.scatter_traces, hard.scatter_traces, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_split_into_batches_does_not_matter(dtype: torch.dtype, weighted: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(3000, 7, generator=generator, dtype=torch.float64).to(dtype) + 5
    y = torch.randint(0, 4, (3000,), generator=generator)
    weights = torch.rand(3000, generator=generator) if weighted else None
    whole = ClassStatistics(4, 7).update(h, y, weights)
    for size in (1, 17, 1024, 1025):
        stats = ClassStatistics(4, 7)
        for start in range(0, 3000, size):
            rows = slice(start, start + size)
            stats.update(h[rows], y[rows], None if weights is None else weights[rows])
        assert_same(stats, whole)


@pytest.mark.parametrize("exact", [False, True])
def test_the_order_of_the_samples_does_not_matter(exact: bool) -> None:
    h, y, classes = problem(5)
    order = np.random.default_rng(0).permutation(len(h))
    first = ClassStatistics(classes, h.shape[1], exact=exact).update(h, y)
    assert_same(ClassStatistics(classes, h.shape[1], exact=exact).update(h[order], y[order]), first)


@pytest.mark.parametrize(
    ("dtype", "rtol"),
    [(torch.float16, 3e-6), (torch.bfloat16, 3e-6), (torch.float32, 3e-6), (torch.float64, 1e-10)],
)
def test_every_float_dtype_is_measured_at_its_own_values_and_left_unchanged(dtype: torch.dtype, rtol: float) -> None:
    h, y, classes = problem(4)
    features = torch.as_tensor(h).to(dtype).requires_grad_()
    kept = features.detach().clone()
    labels = torch.as_tensor(y)
    stats = ClassStatistics(classes, h.shape[1]).update(features, labels)
    assert torch.equal(features.detach(), kept)
    assert torch.equal(labels, torch.as_tensor(y))
    assert stats.means.dtype == stats.within.dtype == torch.float64
    assert_matches(stats, kept.double().numpy(), y, rtol=rtol)
    exact = ClassStatistics(classes, h.shape[1], exact=True).update(features, labels)
    assert_matches(exact, kept.double().numpy(), y)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64, ">f4"])
def test_numpy_arrays_of_any_dtype_and_layout_are_accepted_and_left_unchanged(dtype: Any) -> None:
    h, y, classes = problem(4)
    features = np.asfortranarray((10 * h).astype(dtype))[::-1]
    features.flags.writeable = False
    kept, weights = features.copy(), np.linspace(0.5, 2, len(h))
    stats = ClassStatistics(classes, h.shape[1], exact=True).update(features, y, weights)
    np.testing.assert_array_equal(features, kept)
    np.testing.assert_array_equal(weights, np.linspace(0.5, 2, len(h)))
    assert_matches(stats, kept, y, weights)


def test_batches_of_different_dtypes_add_up() -> None:
    h, y, classes = problem(6)
    parts = [h[:5].astype(np.float32), h[5:9].astype(np.float16), h[9:]]
    stats = ClassStatistics(classes, h.shape[1])
    for part, labels in zip(parts, (y[:5], y[5:9], y[9:]), strict=True):
        stats.update(part, labels)
    assert_matches(stats, np.concatenate([part.astype(np.float64) for part in parts]), y, rtol=3e-6)


@pytest.mark.parametrize("scale", [1e-34, 1e-22, 1e-12, 1e12, 1e25, 2e37])
def test_float32_features_of_any_size_keep_their_scatter(scale: float) -> None:
    h = (torch.randn(300, 5, generator=torch.Generator().manual_seed(0)) * scale).clamp(-3e38, 3e38)
    y = torch.arange(300) % 3
    stats = ClassStatistics(3, 5).update(h, y)
    expected = ClassStatistics(3, 5).update(h.double(), y)
    assert trace_within(stats) == pytest.approx(trace_within(expected), rel=1e-4 if scale < 1e-30 else 1e-6)
    torch.testing.assert_close(
        stats.within / scale**2, expected.within / scale**2, rtol=1e-5, atol=1e-4 if scale < 1e-30 else 1e-6
    )


def test_float32_features_far_from_the_origin_keep_their_scatter() -> None:
    h = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0)) + 1e4
    y = torch.arange(2000) % 5
    within = ClassStatistics(5, 4).update(h, y).within
    torch.testing.assert_close(within, ClassStatistics(5, 4).update(h.double(), y).within, rtol=1e-6, atol=1e-6)


def test_a_relaxed_matmul_precision_does_not_cost_digits() -> None:
    h, y, classes = problem(4)
    features = h.astype(np.float32)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        stats = ClassStatistics(classes, h.shape[1]).update(features, y)
        assert_matches(stats, features, y)
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_shift_of_float64_features_leaves_the_scatter() -> None:
    h, y = np.random.default_rng(0).normal(size=(400, 6)), np.arange(400) % 5
    near = ClassStatistics(5, 6).update(h, y)
    far = ClassStatistics(5, 6).update(h + 1e4, y)
    scale = trace_within(near)
    torch.testing.assert_close(far.within, near.within, rtol=1e-6, atol=1e-9 * scale)
    torch.testing.assert_close(far.between, near.between, rtol=1e-6, atol=1e-9 * scale)
    torch.testing.assert_close(far.class_variances, near.class_variances, rtol=1e-9, atol=0)


def test_empty_and_single_sample_classes_have_nan_and_zero() -> None:
    stats = ClassStatistics(4, 2).update([[1.0, 2.0], [3.0, 0.0], [5.0, 5.0]], [0, 0, 3])
    assert stats.counts.tolist() == [2, 0, 0, 1]
    assert stats.present.tolist() == [0, 3]
    assert stats.means[0].tolist() == [2, 1]
    assert bool(stats.means[1:3].isnan().all())
    assert stats.class_variances[[0, 3]].tolist() == pytest.approx([2, 0])
    assert bool(stats.class_variances[1:3].isnan().all())
    assert stats.scatter_traces.tolist() == pytest.approx([4, 0, 0, 0])
    assert stats.global_mean.tolist() == [3.5, 3]
    assert stats.sample_mean.tolist() == pytest.approx([3, 7 / 3])


def test_a_class_whose_samples_weigh_nothing_is_absent() -> None:
    h, y = [[1.0], [2.0], [9.0]], [0, 0, 1]
    stats = ClassStatistics(2, 1).update(h, y, [1, 1, 0]).update([[4.0]], [0], [0.0])
    assert stats.present.tolist() == [0]
    assert stats.within.tolist() == [[0.25]]


def test_imbalance_of_a_thousand_to_one_is_exact() -> None:
    rng = np.random.default_rng(0)
    h, y = rng.normal(size=(2002, 3)), np.r_[np.zeros(2000, int), [1, 1]]
    assert_matches(ClassStatistics(2, 3).update(h, y), h, y)


def test_duplicate_rows_have_no_scatter() -> None:
    h = np.repeat([[0.1, 0.7], [3.3, -4.1]], 50, axis=0)
    stats = ClassStatistics(2, 2).update(h, np.repeat([0, 1], 50))
    assert trace_within(stats) < 1e-28
    np.testing.assert_allclose(stats.means, h[[0, 50]], rtol=1e-14)


def test_a_batch_without_samples_changes_nothing() -> None:
    stats = ClassStatistics(3, 2).update(np.zeros((0, 2)), np.zeros(0, int)).update(np.zeros((0, 2)), np.zeros((0, 3)))
    assert stats.num_samples == 0
    assert stats.present.tolist() == []
    assert bool(stats.means.isnan().all())


def test_between_of_simplex_etf_means_has_equal_eigenvalues() -> None:
    classes = 6
    etf = (np.eye(classes) - 1 / classes) * np.sqrt(classes / (classes - 1))
    values = np.linalg.eigvalsh(ClassStatistics(classes, classes).update(etf, np.arange(classes)).between.numpy())
    np.testing.assert_allclose(values, [0] + [1 / (classes - 1)] * (classes - 1), atol=1e-14)


@pytest.mark.parametrize("dim", [3, 300])
def test_the_scatter_is_symmetric_and_a_copy(dim: int) -> None:
    h = torch.randn(40, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    stats = ClassStatistics(1, dim).update(h, [0] * 40)
    within = stats.within
    assert torch.equal(within, within.T)
    torch.testing.assert_close(within, torch.cov(h.T, correction=0), rtol=1e-10, atol=1e-12)
    within.zero_()
    stats.counts.zero_()
    stats.means.zero_()
    stats.scatter_traces.zero_()
    torch.testing.assert_close(stats.within, torch.cov(h.T, correction=0), rtol=1e-10, atol=1e-12)


def test_features_whose_sum_overflows_are_finite_all_the_same() -> None:
    check_finite(torch.full((4, 4), 60000.0, dtype=torch.float16))
    check_finite(torch.full((4, 4), 3e38))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.0, 1e-7, 1.0, 6e4, 1e19, 1e30, 3e38, 1e140])
def test_the_magnitude_that_is_reported_is_no_smaller_and_the_largest_itself_beyond_float32(
    dtype: torch.dtype, scale: float
) -> None:
    if scale > torch.finfo(dtype).max:
        return
    values = (torch.linspace(-1, 0.5, 12, dtype=torch.float64).view(4, 3) * scale).to(dtype)
    found, expected = check_finite(values), float(np.abs(values.double().numpy()).max())
    assert found == expected if expected > 1e38 else expected * (1 - 1e-6) <= found <= 1e38


def test_a_float32_batch_after_one_of_larger_numbers_keeps_its_deviations() -> None:
    rows = np.array([[1e39, 2e39], [3e39, 1e39], [0.0, 0.0]])
    stats = ClassStatistics(1, 2).update(rows[:2], [0, 0]).update(rows[2:].astype(np.float32), [0])
    np.testing.assert_allclose(stats.within, np.cov(rows.T, bias=True), rtol=1e-12)


def test_the_longest_mean_follows_the_samples() -> None:
    stats = ClassStatistics(3, 2).update([[3.0, 4.0], [1.0, 0.0]], [0, 2])
    assert stats.longest_mean == 5
    stats.update([[0.0, 12.0], [0.0, 6.0]], [1, 1])
    assert stats.longest_mean == 9
    stats.merge(ClassStatistics(3, 2).update([[31.0, 0.0]], [2]))
    assert stats.longest_mean == 16
    assert stats.update([[0.0, 0.0]], np.array([[0.0, 0.0, 1.0]])).longest_mean == pytest.approx(32 / 3)


def test_means_that_are_read_are_copies() -> None:
    stats = ClassStatistics(2, 2).update([[3.0, 4.0], [1.0, 0.0]], [0, 1])
    for name in ("means", "uncentered_means", "global_mean", "sample_mean"):
        getattr(stats, name).fill_(7)
    stats.centered_means().fill_(7)
    np.testing.assert_array_equal(stats.means, [[3, 4], [1, 0]])
