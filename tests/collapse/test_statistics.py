"""Streaming class statistics against a float64 loop over the samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed

from ood_nc.collapse import ClassStatistics, UndefinedMetricError, trace_within
from ood_nc.collapse._pending import check_finite
from ood_nc.errors import UserError
from ood_nc.training.launch import leave_group


def slow_statistics(
    features: Any, labels: Any, classes: int, weights: Any = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mass (C,), means (C, d), variances (C,) and Sigma_W, one sample and class at a time."""
    h = np.asarray(features, dtype=np.float64)
    y = np.asarray(labels)
    soft = np.eye(classes)[y] if y.ndim == 1 else y.astype(np.float64)
    if weights is not None:
        soft = soft * np.asarray(weights, dtype=np.float64)[:, None]
    mass = np.zeros(classes)
    means = np.full((classes, h.shape[1]), np.nan)
    variances = np.full(classes, np.nan)
    scatter = np.zeros((h.shape[1], h.shape[1]))
    for c in range(classes):
        mass[c] = soft[:, c].sum()
        if mass[c] == 0:
            continue
        means[c] = sum(t * row for t, row in zip(soft[:, c], h, strict=True)) / mass[c]
        own = np.zeros_like(scatter)
        for t, row in zip(soft[:, c], h, strict=True):
            own += t * np.outer(row - means[c], row - means[c])
        variances[c] = np.trace(own) / mass[c]
        scatter += own
    return mass, means, variances, scatter / mass.sum()


def problem(seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """A random problem: any of C > d, d > N, empty classes, single samples, imbalance, an offset, duplicate rows."""
    rng = np.random.default_rng(seed)
    classes, dim, n = int(rng.integers(2, 12)), int(rng.integers(1, 20)), int(rng.integers(2, 120))
    share = rng.dirichlet(np.full(classes, rng.choice([0.2, 1.0, 50.0])))
    y = rng.choice(classes, n, p=share)
    y[:2] = rng.permutation(classes)[:2]
    centers = rng.normal(size=(classes, dim)) * rng.choice([0.1, 1.0, 10.0])
    h = centers[y] + rng.normal(size=(n, dim)) * rng.choice([0.01, 0.3, 2.0]) + rng.choice([0.0, 100.0])
    if n > 10 and rng.random() < 0.3:
        h[n // 2 :], y[n // 2 :] = h[: n - n // 2], y[: n - n // 2]
    return h, y, classes


def assert_matches(stats: ClassStatistics, features: Any, labels: Any, weights: Any = None, rtol: float = 1e-8) -> None:
    mass, means, variances, within = slow_statistics(features, labels, stats.num_classes, weights)
    full = mass > 0
    scale = np.abs(np.asarray(features, dtype=np.float64)).max()
    np.testing.assert_allclose(stats.counts, mass, rtol=rtol)
    np.testing.assert_array_equal(stats.present, full.nonzero()[0])
    np.testing.assert_allclose(stats.means, means, rtol=rtol, atol=rtol * scale)
    floor = rtol * max(float(np.trace(within)), 1e-12 * scale**2)
    np.testing.assert_allclose(stats.class_variances, variances, rtol=rtol, atol=floor)
    np.testing.assert_allclose(stats.within, within, rtol=rtol, atol=floor)
    np.testing.assert_allclose(
        stats.scatter_traces, np.nan_to_num(variances) * mass, rtol=rtol, atol=floor * mass.sum()
    )
    np.testing.assert_allclose(stats.uncentered_means, means[full], rtol=rtol, atol=rtol * scale)
    global_mean, sample_mean = means[full].mean(axis=0), mass[full] @ means[full] / mass.sum()
    np.testing.assert_allclose(stats.global_mean, global_mean, rtol=rtol, atol=rtol * scale)
    np.testing.assert_allclose(stats.sample_mean, sample_mean, rtol=rtol, atol=rtol * scale)
    centered = means[full] - global_mean
    np.testing.assert_allclose(stats.centered_means(), centered, atol=rtol * scale)
    np.testing.assert_allclose(stats.centered_means("samples"), means[full] - sample_mean, atol=rtol * scale)
    np.testing.assert_allclose(stats.between, centered.T @ centered / full.sum(), atol=rtol * scale**2)


def assert_same(left: ClassStatistics, right: ClassStatistics, rtol: float = 1e-10) -> None:
    scale = float(right.scatter_traces.sum())
    torch.testing.assert_close(left.counts, right.counts, rtol=rtol, atol=0)
    torch.testing.assert_close(left.means, right.means, rtol=rtol, atol=rtol, equal_nan=True)
    torch.testing.assert_close(left.scatter_traces, right.scatter_traces, rtol=rtol, atol=rtol * scale)
    torch.testing.assert_close(left.within, right.within, rtol=rtol, atol=rtol * scale)
    assert left.num_samples == right.num_samples


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


@pytest.mark.parametrize("full", [False, True])
def test_merged_statistics_equal_those_of_all_samples(full: bool) -> None:
    rng = np.random.default_rng(1)
    h, y = rng.normal(size=(500, 6)) + 3, np.sort(rng.integers(0, 5, 500))
    whole = ClassStatistics(5, 6, full=full).update(h, y)
    # Sorted labels: the parts share few classes.
    parts = [
        ClassStatistics(5, 6, full=full).update(h[rows], y[rows])
        for rows in (slice(0, 1), slice(1, 260), slice(260, 500))
    ]
    before = parts[1].state_dict()
    merged = ClassStatistics(5, 6, full=full)
    for part in parts:
        assert merged.merge(part) is merged
    if full:
        assert_same(merged, whole)
    torch.testing.assert_close(merged.scatter_traces, whole.scatter_traces, rtol=1e-10, atol=1e-10)
    after = parts[1].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_merge_keeps_the_coarser_resolution() -> None:
    h, y, classes = problem(2)
    fine = ClassStatistics(classes, h.shape[1]).update(h, y)
    coarse = ClassStatistics(classes, h.shape[1]).update(h.astype(np.float32), y)
    assert fine.resolution == np.finfo(np.float64).eps
    assert coarse.resolution == np.finfo(np.float32).eps
    assert fine.merge(coarse).resolution == np.finfo(np.float32).eps


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


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("exact", [False, True])
def test_the_state_round_trips_and_accumulates_on(tmp_path: Path, full: bool, exact: bool) -> None:
    h, y, classes = problem(7)
    h = h.astype(np.float32)
    stats = ClassStatistics(classes, h.shape[1], full=full, exact=exact).update(h, y)
    torch.save(stats.state_dict(), tmp_path / "state.pt")
    again = ClassStatistics.from_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    first, second = stats.state_dict(), again.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (again.num_samples, again.resolution, again.full) == (stats.num_samples, stats.resolution, full)
    stats.update(h + 1, y)
    again.update(h + 1, y)
    torch.testing.assert_close(again.scatter_traces, stats.scatter_traces, rtol=1e-10, atol=1e-12)
    assert again.resolution == stats.resolution


@pytest.mark.parametrize("missing", ["counts", "means", "class_scatter", "num_samples", "resolution"])
def test_a_state_without_a_tensor_is_refused(missing: str) -> None:
    state = ClassStatistics(2, 3).state_dict()
    del state[missing]
    assert_one_line(UserError, f"{missing} missing", ClassStatistics.from_state_dict, state)


@pytest.mark.parametrize("name", ["counts", "means", "class_scatter", "scatter"])
def test_a_state_of_another_shape_is_refused(name: str) -> None:
    state = ClassStatistics(2, 3).state_dict()
    state[name] = torch.zeros(7)
    assert_one_line(UserError, "shape", ClassStatistics.from_state_dict, state)


def assert_one_line(kind: type[Exception], match: str, call: Any, *arguments: Any, **options: Any) -> None:
    with pytest.raises(kind, match=match) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("match", "arguments"),
    [
        ("have 3 columns", (np.zeros((2, 3)), [0, 1])),
        (r"shape \(N, d\)", (np.zeros((2, 2, 3)), [0, 1])),
        (r"labels must be in 0\.\.1, got 2", (np.zeros((2, 2)), [0, 2])),
        (r"labels must be in 0\.\.1, got -1", (np.zeros((2, 2)), [0, -1])),
        ("3 entries for 2", (np.zeros((2, 2)), [0, 1, 1])),
        ("whole numbers", (np.zeros((2, 2)), [0.5, 1])),
        ("row 1 holds NaN", (np.array([[0, 0], [0, np.nan]]), [0, 1])),
        ("row 0 holds NaN or infinity", (np.array([[0, np.inf], [0, 0]]), [0, 1])),
        ("soft labels must have shape", (np.zeros((2, 2)), np.ones((2, 3)))),
        ("soft labels must be finite", (np.zeros((2, 2)), -np.ones((2, 2)))),
        ("soft labels must be finite", (np.zeros((2, 2)), np.full((2, 2), np.nan))),
        ("weights must have shape", (np.zeros((2, 2)), [0, 1], [1.0])),
        ("weights must be finite", (np.zeros((2, 2)), [0, 1], [1.0, -1.0])),
        ("weights must be finite", (np.zeros((2, 2)), [0, 1], [1.0, np.inf])),
        ("labels must have shape", (np.zeros((2, 2)), np.zeros((2, 2, 2)))),
        ("numeric", (np.zeros((2, 2)), ["a", "b"])),
    ],
)
def test_a_wrong_batch_is_refused_and_leaves_the_statistics(match: str, arguments: tuple[Any, ...]) -> None:
    stats = ClassStatistics(2, 2).update([[1.0, 2.0], [3.0, 5.0]], [0, 0])
    before = stats.state_dict()
    assert_one_line(UserError, match, stats.update, *arguments)
    after = stats.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


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


@pytest.mark.parametrize(("classes", "dim"), [(0, 3), (3, 0), (-1, 1)])
def test_statistics_need_a_class_and_a_column(classes: int, dim: int) -> None:
    assert_one_line(UserError, "at least 1", ClassStatistics, classes, dim)


@pytest.mark.parametrize("other", [(3, 2, True), (2, 3, True), (2, 2, False)])
def test_merge_refuses_other_statistics(other: tuple[int, int, bool]) -> None:
    stats = ClassStatistics(2, 2)
    assert_one_line(UserError, "cannot merge", stats.merge, ClassStatistics(*other[:2], full=other[2]))


def test_values_that_need_samples_are_undefined_without_them() -> None:
    stats = ClassStatistics(2, 2)
    for name in ("global_mean", "sample_mean", "uncentered_means", "scatter_traces", "within", "between"):
        assert_one_line(UndefinedMetricError, "no samples", getattr, stats, name)
    assert_one_line(UndefinedMetricError, "no samples", stats.centered_means)
    filled = stats.update([[1.0, 2.0]], [0])
    assert_one_line(UserError, "center must be", filled.centered_means, "median")


def test_the_scatter_matrix_is_undefined_without_full() -> None:
    stats = ClassStatistics(2, 2, full=False).update([[1.0, 2.0], [3.0, 4.0]], [0, 0])
    assert trace_within(stats) == pytest.approx(2)
    assert_one_line(UndefinedMetricError, "full=False", getattr, stats, "within")


def test_all_reduce_does_nothing_without_processes() -> None:
    stats = ClassStatistics(2, 1).update([[1.0], [2.0]], [0, 1])
    assert stats.all_reduce() is stats
    assert stats.counts.tolist() == [1, 1]


def test_all_reduce_in_a_group_of_one_keeps_the_statistics(tmp_path: Path) -> None:
    h, y, classes = problem(8)
    whole = ClassStatistics(classes, h.shape[1]).update(h, y)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    try:
        assert_same(ClassStatistics(classes, h.shape[1]).update(h, y).all_reduce(), whole)
    finally:
        leave_group()


def test_all_reduce_over_three_processes_equals_merging(monkeypatch: pytest.MonkeyPatch) -> None:
    h, y, classes = problem(8)
    parts = [slice(0, 7), slice(7, 20), slice(20, None)]
    shards = [ClassStatistics(classes, h.shape[1]).update(h[rows], y[rows]) for rows in parts]
    # The collective runs in one process: a sum that is filled by each in turn, first to record and then to answer.
    recorded: list[list[torch.Tensor]] = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)

    def play(stats: ClassStatistics, answers: list[torch.Tensor]) -> list[torch.Tensor]:
        sent: list[torch.Tensor] = []

        def all_reduce(tensor: torch.Tensor, op: Any = None, group: Any = None) -> None:
            sent.append(tensor.clone())
            if len(sent) <= len(answers):
                tensor.copy_(answers[len(sent) - 1])

        monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
        stats.all_reduce()
        return sent

    answers: list[torch.Tensor] = []
    # Later tensors depend on earlier answers: record them in two rounds.
    for _ in range(2):
        copies = [ClassStatistics.from_state_dict(shard.state_dict()) for shard in shards]
        recorded = [play(stats, answers) for stats in copies]
        answers = [torch.stack(list(tensors)).sum(dim=0) for tensors in zip(*recorded, strict=True)]
        answers[3] = recorded[0][3]
    play(shards[0], answers)
    assert_matches(shards[0], h, y)
    assert shards[0].num_samples == len(h)
