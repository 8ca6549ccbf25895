"""The tracker's curve against measuring its windows by hand, and its cost against a training step."""

from __future__ import annotations

import copy
import statistics
import time

import pytest
import torch
from torch import nn

from ood_nc.collapse import ClassStatistics, CollapseTracker, measure
from ood_nc.errors import UserError


def batches(count: int, seed: int = 0) -> list[tuple[dict[str, torch.Tensor], torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    result = []
    for _ in range(count):
        labels = torch.randint(0, 3, (16,), generator=generator)
        taps = {name: torch.randn(16, dim, generator=generator) + labels[:, None] for name, dim in (("a", 4), ("b", 6))}
        result.append((taps, labels))
    return result


def test_a_point_is_the_measure_of_its_window() -> None:
    tracker = CollapseTracker(3, interval=5, window=2, metrics=["nc1_pinv", "nc2_angle"])
    data = batches(11)
    points = [tracker.step(taps, labels) for taps, labels in data]
    assert [index for index, point in enumerate(points) if point] == [4, 9]
    for end in (5, 10):
        for tap in ("a", "b"):
            stats = ClassStatistics(3, data[0][0][tap].shape[1])
            for taps, labels in data[end - 2 : end]:
                stats.update(taps[tap], labels)
            expected = measure(stats).to_dict()
            point = points[end - 1]
            assert point is not None
            assert point[tap] == {name: expected[name] for name in ("nc1_pinv", "nc2_angle")}
    steps, values = tracker.curve("b", "nc1_pinv")
    assert steps == [5, 10]
    assert values == [points[4]["b"]["nc1_pinv"], points[9]["b"]["nc1_pinv"]]


def test_taps_are_read_only_when_due() -> None:
    tracker = CollapseTracker(3, interval=4, window=1)
    data = batches(4)
    due = []
    for taps, labels in data:
        due.append(tracker.due)
        point = tracker.step(taps if tracker.due else {}, labels)
    assert due == [False, False, False, True]
    assert point is not None


def test_soft_labels_and_gradients_pass() -> None:
    tracker = CollapseTracker(3, interval=1, window=1)
    features = torch.randn(8, 4, requires_grad=True)
    point = tracker.step({"a": features}, torch.softmax(torch.randn(8, 3), dim=1))
    assert point is not None
    assert point["a"]["trace_within"] > 0
    assert features.grad is None


def test_batches_that_are_not_finite_are_left_out() -> None:
    tracker = CollapseTracker(3, interval=2, window=2)
    (taps, labels), (_, _) = batches(2)
    broken = {name: torch.full_like(tap, torch.inf) for name, tap in taps.items()}
    tracker.step(broken, labels)
    point = tracker.step(taps, labels)
    assert tracker.skipped == 2
    assert point is not None
    assert point["a"]["trace_within"] == measure(ClassStatistics(3, 4).update(taps["a"], labels)).trace_within


def test_a_resumed_curve_equals_an_uninterrupted_one() -> None:
    data = batches(12)
    straight, first, second = (CollapseTracker(3, interval=3, window=2) for _ in range(3))
    for taps, labels in data:
        straight.step(taps, labels)
    for taps, labels in data[:8]:  # within a window
        first.step(taps, labels)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for taps, labels in data[8:]:
        first.step(taps, labels)
        second.step(taps, labels)
    assert second.curve("a", "cdnv") == first.curve("a", "cdnv")
    # A checkpoint takes the block that waits into the sums, whose rounding (float32 products) depends on the block.
    assert second.curve("a", "cdnv")[1] == pytest.approx(straight.curve("a", "cdnv")[1], rel=1e-6)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(UserError, match="window must be between 1 and the interval of 5 steps, got 6"):
        CollapseTracker(3, interval=5, window=6)
    with pytest.raises(UserError, match=r"Unknown collapse metric 'cdvn'\. Did you mean 'cdnv'"):
        CollapseTracker(3, metrics=["cdvn"])
    with pytest.raises(UserError, match="nc3_duality needs weight: it cannot be tracked"):
        CollapseTracker(3, metrics=["nc3_duality"])
    tracker = CollapseTracker(3, interval=1, window=1)
    with pytest.raises(UserError, match="no point of a tap 'a' yet"):
        tracker.curve("a", "cdnv")
    with pytest.raises(UserError, match="'vci' is not tracked"):
        tracker.curve("a", "vci")


@pytest.mark.slow
def test_the_default_tracker_costs_at_most_two_percent_of_a_step() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3, 2, 1), nn.ReLU(), nn.Conv2d(64, 128, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(128, 512), nn.ReLU(), nn.Linear(512, 100),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    images, labels = torch.randn(128, 3, 32, 32), torch.randint(0, 100, (128,))
    tracker = CollapseTracker(100)
    shares = []
    for _ in range(3):
        spent = training = 0.0
        for _ in range(tracker.interval):
            start = time.process_time()
            features = model[:-1](images)
            nn.functional.cross_entropy(model[-1](features), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            middle = time.process_time()
            tracker.step({"conv": features[:, :128], "encoder": features}, labels)
            training, spent = training + middle - start, spent + time.process_time() - middle
        shares.append(spent / training)
    assert statistics.median(shares) <= 0.02
