"""Controlled taps: estimates from the training batches, measurements after the epochs, and the weights they steer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ood_nc.collapse import RunningEntropy, RunningStatistics, UndefinedMetricError
from ood_nc.config import ControlConfig, LossConfig
from ood_nc.losses import Objective, Term
from ood_nc.training.steering import TOLERANCE, Steering

METRICS = {"nc1": "nc1_pinv", "vci": "vci", "effective_rank": "effective_rank", "entropy": "entropy_nn"}
"""What each target is a value of, by its name in the results."""

SAMPLE = 4096
"""Images of a measurement; `entropy_nn` of a larger set is by its definition that of so many."""

_FOLDS = 100  # per run
_MEASUREMENTS = 20  # per run, one an epoch at most


RAISES = {"nc1": "within_class", "vci": "within_class", "effective_rank": "entropy", "entropy": "entropy"}
"""The loss that raises each; what draws a class together is turned round for it. `LOWERS` lowers them all."""

LOWERS = "within_class"


def steered_terms(controls: Iterable[ControlConfig], loss: LossConfig) -> list[Term]:
    """The terms of an objective whose weights `Control` moves."""
    terms = []
    for control in controls:
        if RAISES[control.metric] == "entropy":
            terms.append(Term("entropy", control.tap, 0.0, {"scope": loss.entropy_scope}))
        terms.append(Term(LOWERS, control.tap, 0.0))
    return terms


class Control:
    """The controlled taps of a run.

    Three things separate a batch from the full set in evaluation mode. The noise of a few samples and the drift of the
    features are taken out where they arise (`RunningStatistics`). Augmentation, dropout and batch norm's two modes are
    not to be computed: so after epochs (each, or twenty a run) the tap is measured on up to 4,096 training images, and
    the ratio of that to the running estimate corrects the estimate from then on.

    Every process holds the same numbers and must make the same calls.

    Args:
        controls: the targets, one a tap.
        dims: columns of each tap.
        counts: training images of each class (C,).
        objective: whose weights move.
        batches: training batches of the whole run, in each process.
        images: images of the whole run, over all processes.
        device: where the statistics live.
    """

    def __init__(
        self,
        controls: Iterable[ControlConfig],
        dims: Mapping[str, int],
        counts: torch.Tensor,
        objective: Objective,
        *,
        batches: int,
        images: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self._counts = counts
        self._objective = objective
        self._batches = batches
        self._every = max(1, batches // _FOLDS)
        self._seen, self._elapsed = 0, 0.0
        self.taps = {
            control.tap: ControlledTap(
                control, dims[control.tap], counts, objective, images_a_batch=images / batches, device=device
            )
            for control in controls
        }

    def step(self, taps: Mapping[str, torch.Tensor], labels: torch.Tensor, rate: float) -> None:
        """Take one training batch.

        Args:
            taps: features (B, d) of each tap.
            labels: class indices (B,).
            rate: the learning rate as share of its highest.
        """
        self._seen += 1
        self._elapsed += math.sqrt(rate) / self._batches
        for name, tap in self.taps.items():
            tap.running.update(taps[name], labels)
        if self._seen % self._every == 0:
            for tap in self.taps.values():
                tap.steer(self._elapsed)
            self._elapsed = 0.0

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
        return {"seen": self._seen, "elapsed": self._elapsed, "taps": taps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._seen, self._elapsed = state["seen"], state["elapsed"]
        for name, tap in self.taps.items():
            tap.load_state_dict(state["taps"][name])

    @staticmethod
    def due(epoch: int, epochs: int) -> bool:
        """Whether the end of an epoch (from 1) calls for a measurement."""
        return epoch == epochs or (epoch - 1) % max(1, epochs // _MEASUREMENTS) == 0


class ControlledTap:
    """One tap: its running estimate, the correction of it, and its steering."""

    def __init__(
        self,
        control: ControlConfig,
        dim: int,
        counts: torch.Tensor,
        objective: Objective,
        *,
        images_a_batch: float,
        device: torch.device | str,
    ) -> None:
        self.control, self.metric = control, METRICS[control.metric]
        self._objective = objective
        # So many samples that the corrections are small, and no more: the features move meanwhile, and a lag of the
        # estimate makes the loop swing. NC1 needs the scatter along the C - 1 directions of the means alone.
        columns = 0.0 if self.metric == "nc1_pinv" else 4.0 * dim
        horizon = max(32.0 * len(counts), columns, 8.0 * images_a_batch)
        self.running = _running(self.metric, counts, dim, horizon, device)
        self._steering = Steering(self._scaled(control.target), control.side)
        self._shift = 0.0
        self._estimate: float | None = None
        self._measured: float | None = None
        self._told = False

    def steer(self, elapsed: float) -> None:
        """Take the batches since the last call into the estimate, and move the weight.

        It rests until the first measurement: a network that has learnt nothing is off in ways that pass by themselves.
        """
        self.running.fold()
        raw = self._raw()
        if raw is not None and self._measured is not None:
            self._estimate = raw + self._shift
            self._steering.update(self._estimate, elapsed)
            self._apply()

    def correct(self, measured: float) -> None:
        """Move the correction half-way to what a measurement says, all the way the first time.

        Half-way, as the estimate lags behind features that move, which one measurement takes for a bias.
        """
        first, raw = self._measured is None, self._raw()
        self._measured = self._scaled(measured)
        if raw is not None:
            self._shift += (self._measured - raw - self._shift) * (1.0 if first else 0.5)
            self._estimate = raw + self._shift

    def values(self) -> dict[str, float | None]:
        """The numbers of the log."""
        named = {
            "target": self.control.target,
            "estimate": self._unscaled(self._estimate),
            "measured": self._unscaled(self._measured),
            "weight": self._steering.weight,
        }
        return {f"control/{self.control.tap}/{self.control.metric}/{name}": value for name, value in named.items()}

    def news(self) -> str | None:
        """The line of a tap that has given up, once."""
        if self._told or not self._steering.gives_up:
            return None
        self._told = True
        return (
            f"control: {self.control.metric} of {self.control.tap} is {self._unscaled(self._estimate):.3g} and does "
            f"not reach {self.control.target:g}: the weight stays at its end, {self._steering.weight:g}."
        )

    def outcome(self) -> str:
        """Where the tap landed, in one line."""
        control, value = self.control, self._measured
        wanted = f"{control.metric} of {control.tap} {control.side} {control.target:g}"
        if value is None:
            return f"control: {wanted} was never measured."
        error = value - self._scaled(control.target)
        met = {"at": abs(error), "above": -error, "below": error}[control.side] <= TOLERANCE
        return f"control: {wanted} is {'' if met else 'missed: it is '}{self._unscaled(value):.3g} at the end."

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        own = {name: getattr(self, name) for name in ("_shift", "_estimate", "_measured", "_told")}
        return {**own, "running": self.running.state_dict(), "steering": self._steering.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        for name in ("_shift", "_estimate", "_measured", "_told"):
            setattr(self, name, state[name])
        self.running.load_state_dict(state["running"])
        self._steering.load_state_dict(state["steering"])
        self._apply()

    def _raw(self) -> float | None:
        value = _value(self.running, self.metric)
        return None if value is None else self._scaled(value)

    def _apply(self) -> None:
        weight, raising = self._steering.weight, RAISES[self.control.metric]
        if raising == LOWERS:
            self._objective.set_weight(LOWERS, self.control.tap, -weight)
        else:
            self._objective.set_weight(raising, self.control.tap, max(weight, 0.0))
            self._objective.set_weight(LOWERS, self.control.tap, max(-weight, 0.0))

    def _scaled(self, value: float) -> float:
        """The value as the error is taken of it: its logarithm, which entropy is already."""
        return value if self.metric == "entropy_nn" else math.log(max(value, 1e-12))

    def _unscaled(self, value: float | None) -> float | None:
        return value if value is None or self.metric == "entropy_nn" else math.exp(value)


def measure(metric: str, features: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor) -> float | None:
    """A metric of the full set, of which each class has ``counts`` samples, by a sample of it; None where undefined."""
    sample = _running(metric, counts, features.shape[1], math.inf, "cpu")
    sample.update(features.cpu(), labels.cpu())
    sample.fold(joint=False)
    return _value(sample, metric)


def _running(
    metric: str, counts: torch.Tensor, dim: int, horizon: float, device: torch.device | str
) -> RunningStatistics | RunningEntropy:
    if metric == "entropy_nn":
        return RunningEntropy(horizon=horizon)
    return RunningStatistics(counts, dim, horizon=horizon, device=device)


def _value(running: RunningStatistics | RunningEntropy, metric: str) -> float | None:
    if not running.ready:
        return None
    try:
        return running.value(metric)
    except UndefinedMetricError:
        return None
