"""Collapse during training: the curve of every tap, at a cost that a training step does not notice."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch

from ood_nc.accumulate import largest_magnitude
from ood_nc.collapse._pending import LARGEST
from ood_nc.collapse.registry import METRICS
from ood_nc.collapse.report import measure
from ood_nc.collapse.statistics import ClassStatistics
from ood_nc.errors import UserError, nearest

TRACKED = ("nc1_ratio", "within_share", "cdnv", "nc2_norm", "nc2_angle", "trace_within", "trace_between")
"""What `CollapseTracker` follows by default: metrics of O(C d) memory that need the statistics alone."""


class CollapseTracker:
    """Measures collapse on the training batches themselves, in short windows at regular intervals.

    Of every ``interval`` steps the last ``window`` ones are accumulated, per tap, and measured at the end: one point of
    the curve. The weights move a little within a window, which counts as within-class variance: keep it short. A class
    that the window did not meet is left out of its point. Under a process group all processes' batches count;
    every process must then call `step` alike. Batches that are not finite (as when a gradient scaler finds its scale)
    are left out.

    Args:
        num_classes: number of classes C.
        interval: steps from one point to the next.
        window: steps that a point is measured on, at most ``interval``.
        metrics: names of `METRICS` that need the statistics alone.

    Example:
        >>> tracker = CollapseTracker(num_classes=2, interval=2, window=1)
        >>> batch = {"encoder": torch.tensor([[0.0, 1.0], [0.0, 3.0], [4.0, 0.0], [4.0, 2.0]])}
        >>> for _ in range(4):
        ...     _ = tracker.step(batch, torch.tensor([0, 0, 1, 1]))
        >>> tracker.curve("encoder", "trace_within")
        ([2, 4], [1.0, 1.0])
    """

    def __init__(
        self, num_classes: int, *, interval: int = 100, window: int = 10, metrics: Collection[str] = TRACKED
    ) -> None:
        if not 1 <= window <= interval:
            raise UserError(f"window must be between 1 and the interval of {interval} steps, got {window}.")
        for name in metrics:
            if METRICS[name].needs:
                raise UserError(f"{name} needs {' and '.join(METRICS[name].needs)}: it cannot be tracked.")
        self.num_classes = num_classes
        self.interval = interval
        self.window = window
        self.metrics = tuple(metrics)
        self.steps = 0
        self.skipped = 0
        self._full = any(METRICS[name].memory != "O(C d)" for name in metrics)
        self._statistics: dict[str, ClassStatistics] = {}
        self._points: list[tuple[int, dict[str, dict[str, float | None]]]] = []

    @property
    def due(self) -> bool:
        """Whether the next `step` will read its taps; when not, they need not be computed (pass an empty mapping)."""
        return self.steps % self.interval >= self.interval - self.window

    @torch.no_grad()
    def step(self, taps: Mapping[str, torch.Tensor], labels: torch.Tensor) -> dict[str, dict[str, float | None]] | None:
        """Count one training step; return the new point, tap by tap, when one is complete.

        Args:
            taps: pooled features (B, d) of each tap.
            labels: class indices (B,), or soft labels (B, C) of mixed samples.

        Raises:
            UserError: features or labels that do not fit.
        """
        if self.due:
            self._accumulate(taps, labels)
        self.steps += 1
        if self.steps % self.interval or not self._statistics:
            return None
        point: dict[str, dict[str, float | None]] = {}
        for tap, stats in self._statistics.items():
            values = measure(stats.all_reduce(), metrics=self.metrics).to_dict()
            point[tap] = {name: values[name] for name in self.metrics}
        self._statistics = {}
        self._points.append((self.steps, point))
        return point

    def _accumulate(self, taps: Mapping[str, torch.Tensor], labels: torch.Tensor) -> None:
        for tap, features in taps.items():
            if tap not in self._statistics:
                # Apple's GPUs have no float64.
                device = "cpu" if features.device.type == "mps" else features.device
                self._statistics[tap] = ClassStatistics(
                    self.num_classes, features.shape[-1], device=device, full=self._full
                )
            if largest_magnitude(features.detach()) <= LARGEST:
                self._statistics[tap].update(features, labels)
            else:
                self.skipped += 1

    def curve(self, tap: str, metric: str) -> tuple[list[int], list[float | None]]:
        """Return the steps and the values of one tap's metric; None where it was undefined.

        Raises:
            UserError: a metric that is not tracked, or a tap that was never seen.
        """
        if metric not in self.metrics:
            raise UserError(f"{metric!r} is not tracked.{nearest(metric, self.metrics)}")
        points = [(step, point[tap][metric]) for step, point in self._points if tap in point]
        if not points:
            raise UserError(f"no point of a tap {tap!r} yet.")
        return [step for step, _ in points], [value for _, value in points]

    def state_dict(self) -> dict[str, Any]:
        """Return steps, curves and an unfinished window as plain values and tensors, for a checkpoint."""
        window = {tap: stats.state_dict() for tap, stats in self._statistics.items()}
        points = [list(point) for point in self._points]
        return {"steps": self.steps, "skipped": self.skipped, "points": points, "window": window}

    def load_state_dict(self, state: Mapping[str, Any], *, device: torch.device | str = "cpu") -> None:
        """Continue from what `state_dict` returned, with features on ``device``."""
        self.steps, self.skipped = int(state["steps"]), int(state["skipped"])
        self._points = [(int(step), dict(point)) for step, point in state["points"]]
        self._statistics = {
            tap: ClassStatistics.from_state_dict(stats, device="cpu" if torch.device(device).type == "mps" else device)
            for tap, stats in state["window"].items()
        }
