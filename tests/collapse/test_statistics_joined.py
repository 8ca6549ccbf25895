"""Class statistics merged, kept and summed over processes, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed

from ood_nc.collapse import ClassStatistics, UndefinedMetricError, trace_within
from ood_nc.errors import UserError
from ood_nc.training.launch import leave_group
from tests.collapse.slow_statistics import assert_matches, assert_same, problem


def assert_one_line(kind: type[Exception], match: str, call: Any, *arguments: Any, **options: Any) -> None:
    with pytest.raises(kind, match=match) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)


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


@pytest.mark.parametrize("other", [(3, 2, True), (2, 3, True), (2, 2, False)])
def test_merge_refuses_other_statistics(other: tuple[int, int, bool]) -> None:
    stats = ClassStatistics(2, 2)
    assert_one_line(UserError, "cannot merge", stats.merge, ClassStatistics(*other[:2], full=other[2]))


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


@pytest.mark.parametrize(("classes", "dim"), [(0, 3), (3, 0), (-1, 1)])
def test_statistics_need_a_class_and_a_column(classes: int, dim: int) -> None:
    assert_one_line(UserError, "at least 1", ClassStatistics, classes, dim)


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
