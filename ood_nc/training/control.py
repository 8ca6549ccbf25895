"""Controlled taps: a quantity of each batch held where the full set, as measured after the epochs, has its target."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed

from ood_nc.collapse import RunningStatistics, UndefinedMetricError, entropy_nn
from ood_nc.config import ControlConfig, LossConfig
from ood_nc.losses import Objective, Term
from ood_nc.training.estimator import Estimator
from ood_nc.training.steering import TOLERANCE, Steering

METRICS = {"nc1": "nc1_pinv", "vci": "vci", "effective_rank": "effective_rank", "entropy": "entropy_nn"}
"""What each target is a value of, by its name in the results."""

QUANTITIES = {"nc1": ("nc1", 1), "vci": ("nc1", 1), "effective_rank": ("entropy", -1), "entropy": ("entropy", -1)}
"""The quantity of the batch that moves each: a loss and its sign, such that the metric rises with it."""

SAMPLE = 4096
"""Images of a measurement; `entropy_nn` of a larger set is by its definition that of so many."""

_UPDATES = 100  # per run
_MEASUREMENTS = 60  # per run, one an epoch at most
_MEMORY = 10.0
"""Batches at the highest rate after which one counts for 1/e in the running average."""


def steered_terms(controls: Iterable[ControlConfig], loss: LossConfig) -> list[Term]:
    """The terms of an objective whose weights `Control` moves."""
    terms = []
    for control in controls:
        name, _ = QUANTITIES[control.metric]
        terms.append(Term(name, control.tap, 0.0, {"scope": loss.entropy_scope} if name == "entropy" else {}))
    return terms


class Control:
    """The controlled taps of a run.

    After epochs (each, or sixty a run, and each of the last) the taps are measured on up to 4,096 training images; in
    between `Estimator` tells the full set's value by the batches.

    Every process holds the same numbers and must make the same calls.

    Args:
        controls: the targets, one a tap.
        counts: training images of each class (C,).
        objective: whose weights move.
        batches: training batches of the whole run, in each process.
        device: where the batches' quantities are summed.
    """

    def __init__(
        self,
        controls: Iterable[ControlConfig],
        counts: torch.Tensor,
        objective: Objective,
        *,
        batches: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self._counts = counts
        self._batches = batches
        self._every = max(1, batches // _UPDATES)
        self._seen, self._pace = 0, 0.0
        self.taps = {control.tap: ControlledTap(control, objective, device=device) for control in controls}

    def step(self, parts: Mapping[str, torch.Tensor], rate: float) -> None:
        """Take one training batch.

        Args:
            parts: what the objective gave beside the loss.
            rate: the learning rate as share of its highest.
        """
        self._seen += 1
        self._pace += math.sqrt(rate)
        for tap in self.taps.values():
            tap.add(parts)
        if self._seen % self._every == 0:
            for tap in self.taps.values():
                tap.steer(self._pace, self._every, self._batches)
            self._pace = 0.0

    def measure(self, features: Mapping[str, torch.Tensor], labels: torch.Tensor) -> dict[str, float | None]:
        """The metric of each tap on the full set, by a sample of it; None where it has none.

        Args:
            features: features (N, d) of each tap, in evaluation mode, of a sample of the training images.
            labels: their classes (N,).
        """
        return {name: measure(tap.metric, features[name], labels, self._counts) for name, tap in self.taps.items()}

    def correct(self, measured: Mapping[str, float | None]) -> None:
        """Correct the estimates from now on by what `measure` gave."""
        for name, value in measured.items():
            if value is not None:
                self.taps[name].correct(value)

    @property
    def met(self) -> bool:
        """Whether every tap is on its target, by the last measurement or what is known since."""
        return all(tap.met for tap in self.taps.values())

    def values(self) -> dict[str, float | None]:
        """The lines of the log: ``control/<tap>/<metric>/`` target, estimate, measured and weight."""
        return {name: value for tap in self.taps.values() for name, value in tap.values().items()}

    def news(self) -> list[str]:
        """One line for each tap that gave up since the last call."""
        return [line for tap in self.taps.values() if (line := tap.news()) is not None]

    def outcome(self) -> list[str]:
        """One line for each tap: where it landed by the last measurement."""
        return [tap.outcome() for tap in self.taps.values()]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        taps = {name: tap.state_dict() for name, tap in self.taps.items()}
        return {"seen": self._seen, "pace": self._pace, "taps": taps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._seen, self._pace = state["seen"], state["pace"]
        for name, tap in self.taps.items():
            tap.load_state_dict(state["taps"][name])

    @staticmethod
    def due(epoch: int, epochs: int) -> bool:
        """Whether the end of an epoch (from 1) calls for a measurement."""
        return epoch > epochs - 4 or (epoch - 1) % max(1, epochs // _MEASUREMENTS) == 0


class ControlledTap:
    """One tap: the quantity of its batches, what that says of the full set, and the steering."""

    def __init__(self, control: ControlConfig, objective: Objective, *, device: torch.device | str) -> None:
        self.control, self.metric = control, METRICS[control.metric]
        self._loss, self._sign = QUANTITIES[control.metric]
        self._pending = torch.zeros(2, dtype=torch.float32, device=device)  # sum and number of the batches' quantities
        self._steering, self._estimator = Steering(control.side), Estimator()
        self._told = False
        objective.set_law(self._loss, control.tap, self._weight)

    def add(self, parts: Mapping[str, torch.Tensor]) -> None:
        """Take the quantity of one batch, on the device. One that is not finite is left out, and 0: it had none."""
        quantity = self._sign * parts[f"{self._loss}/{self.control.tap}"].float()
        there = torch.isfinite(quantity) & (quantity != 0)
        self._pending += torch.stack([torch.where(there, quantity, 0.0), there.float()]).to(self._pending)

    def steer(self, pace: float, taken: int, batches: int) -> None:
        """Take the batches since the last call into the average, and move the multiplier.

        It rests until the first measurement: a network that has learnt nothing is off in ways that pass by themselves.

        Args:
            pace: the sum of the square roots of the rates since the last call.
            taken: batches since the last call, in each process.
            batches: of the whole run.
        """
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(self._pending)
        total, number = self._pending.tolist()
        self._pending = torch.zeros_like(self._pending)
        if number == 0:
            return
        self._estimator.take(total / number, math.exp(-pace / _MEMORY))
        if self._estimator.ready and self._estimator.value is not None:
            error = self._target - self._estimator.value
            self._steering.update(error, pace / batches, max(pace / taken, self._estimator.share))

    def correct(self, measured: float) -> None:
        """Take a measurement of the full set."""
        self._estimator.correct(self._scaled(measured))

    @property
    def met(self) -> bool:
        """Whether the value is on the right side of its target, or within 10 % of it."""
        return self._estimator.value is not None and self._is_met(self._estimator.value)

    def values(self) -> dict[str, float | None]:
        """The numbers of the log; the weight is that of the quantity in a batch like the average."""
        named = {
            "target": self.control.target,
            "estimate": self._unscaled(self._estimator.value),
            "measured": self._unscaled(self._estimator.measured),
            "weight": self._steering.level,
        }
        return {f"control/{self.control.tap}/{self.control.metric}/{name}": value for name, value in named.items()}

    def news(self) -> str | None:
        """The line of a tap that has given up, once."""
        if self._told or not self._steering.gives_up:
            return None
        self._told = True
        value = self._unscaled(self._estimator.value)
        return (
            f"control: {self.control.metric} of {self.control.tap} is {value:.3g} and does not reach "
            f"{self.control.target:g}: the weight stays at its end, {self._steering.level:g}."
        )

    def outcome(self) -> str:
        """Where the tap landed, in one line."""
        control, value = self.control, self._estimator.measured
        wanted = f"{control.metric} of {control.tap} {control.side} {control.target:g}"
        if value is None:
            return f"control: {wanted} was never measured."
        missed = "" if self._is_met(value) else "missed: it is "
        return f"control: {wanted} is {missed}{self._unscaled(value):.3g} at the end."

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        parts = {"estimator": self._estimator.state_dict(), "steering": self._steering.state_dict()}
        return {"pending": self._pending, "told": self._told, **parts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._pending = state["pending"].to(self._pending, copy=True)
        self._told = state["told"]
        self._estimator.load_state_dict(state["estimator"])
        self._steering.load_state_dict(state["steering"])

    def _weight(self, value: torch.Tensor) -> torch.Tensor:
        """The law of the objective: the weight of the loss in a batch where it has this value."""
        if not self._estimator.ready:
            return torch.zeros_like(value)
        return self._sign * self._steering.weight(self._sign * value - (self._target - self._estimator.bias))

    def _is_met(self, value: float) -> bool:
        error = value - self._target
        return {"at": abs(error), "above": -error, "below": error}[self.control.side] <= TOLERANCE

    @property
    def _target(self) -> float:
        return self._scaled(self.control.target)

    def _scaled(self, value: float) -> float:
        """The value as the error is taken of it: its logarithm, which entropy is already."""
        return value if self.metric == "entropy_nn" else math.log(max(value, 1e-12))

    def _unscaled(self, value: float | None) -> float | None:
        return value if value is None or self.metric == "entropy_nn" else math.exp(value)


def measure(metric: str, features: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor) -> float | None:
    """A metric of the full set, of which each class has ``counts`` samples, by a sample of it; None where undefined.

    Classes that the sample has none of (rare ones, a few of very many) are left out.
    """
    if metric == "entropy_nn":
        return entropy_nn(features) if len(features) > 1 else None
    met = torch.bincount(labels.cpu(), minlength=len(counts)) > 0
    sample = RunningStatistics(torch.where(met, counts.cpu(), 0), features.shape[1], horizon=math.inf)
    sample.update(features.cpu(), labels.cpu())
    sample.fold(joint=False)
    try:
        return sample.value(metric) if sample.ready else None
    except UndefinedMetricError:
        return None
