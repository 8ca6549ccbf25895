"""Adapter, projector and head for a network that is finished: they learn from cached features, its backbone stays."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import nn

from ood_nc.config import Config, ProjectorConfig
from ood_nc.devices import choose_device
from ood_nc.errors import UserError
from ood_nc.features import Derive
from ood_nc.losses import Objective
from ood_nc.models import ControlledModel, Projector
from ood_nc.models.taps import BEHIND
from ood_nc.progress import progress
from ood_nc.tracking import Tracker
from ood_nc.training.checkpoints import BEST, describe, write_weights
from ood_nc.training.control import SAMPLE, Control
from ood_nc.training.measurement import diverged, is_right
from ood_nc.training.objectives import create_objective
from ood_nc.training.optimization import create_optimizer, create_schedule
from ood_nc.training.run_directory import RunDirectory
from ood_nc.training.seeds import derive_seed, seed_everything

_ROWS = 8192
_REACH = 10.0
"""How much further a step moves features by the adapter than by weights of their own scale, so that a small one keeps
up with the controller: in 200 steps on digits NC1 misses 0.3 by 72 % at 1 and by 1 % at 10."""

logger = logging.getLogger(__name__)


class EncoderFeatures(NamedTuple):
    """What an encoder gave for images.

    Attributes:
        features: (N, d).
        labels: classes (N,).
    """

    features: torch.Tensor
    labels: torch.Tensor


def with_projector(
    model: ControlledModel, projector: ProjectorConfig, class_names: Sequence[str], *, seed: int = 0
) -> ControlledModel:
    """The network with a projector (and adapter) behind its encoder and a linear head, all new; its backbone is copied.

    Args:
        model: without a projector; it is not changed.
        projector: what stands behind the encoder.
        class_names: of the new head; they may be others than the network was trained on.
        seed: of the new weights.

    Raises:
        UserError: the network has a projector already, or ``projector`` is none.
    """
    options = projector.model_dump()
    kind, adapter = str(options.pop("kind")), options.pop("adapter")
    if model.projector is not None:
        raise UserError("The network has a projector already: retrofit takes one without.")
    if kind == "none":
        raise UserError("model.projector.kind is none: retrofit puts a projector behind the encoder, so name one.")
    spec = model.spec()
    taps = [*(tap for tap in spec["taps"] if tap not in BEHIND), *BEHIND]
    changed = {"num_classes": len(class_names), "class_names": list(class_names), "head": "linear", "auxiliary": []}
    changed |= {"projector": kind, "projector_options": Projector(model.encoder_dim, kind, **options).options()}
    changed |= {"adapter": adapter, "taps": taps}
    seed_everything(seed, "model")
    result = ControlledModel.from_spec({**spec, **changed})
    result.backbone.load_state_dict(model.backbone.state_dict())
    return result.eval()


def from_encoder(model: ControlledModel) -> Derive:
    """What gives the logits and all taps of a model with a projector from those of its backbone alone."""

    def derive(taps: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits, behind = model.behind_encoder(taps["encoder"].to(model.head_weight))
        return logits.cpu(), {**taps, **{name: rows.cpu() for name, rows in behind.items()}}

    return derive


def fit_behind_encoder(
    model: ControlledModel,
    train: EncoderFeatures,
    val: EncoderFeatures,
    config: Config,
    trackers: Sequence[Tracker] = (),
) -> dict[str, float]:
    """Train adapter, projector and head of a model on features of its encoder; nothing else of it changes.

    A trainable projector learns from features that are centred and divided by one number, the root of their mean
    variance, and what an adapter adds is multiplied by ten times it, so that one learning rate fits encoders of any
    scale; all is then folded into their weights. Controlled taps are measured after every epoch. The weights are those
    of the last.

    Args:
        model: with a projector, from `with_projector`.
        train: of ID training images.
        val: of held-out ID images.
        config: loss, control, optimiser, schedule, epochs, batch size, seed and device.
        trackers: receive a line on both sets, and on the controlled taps, after every epoch.

    Returns:
        ``loss``, of the task, and ``accuracy`` on ``val`` after the last epoch.

    Raises:
        UserError: a loss or target of a tap that stays as it is, features that are not the encoder's, or a loss that
            is not finite.
    """
    objective, settings = create_objective(config, model, train.labels), config.train
    _check_taps(objective, model)
    if train.features.shape[1] != model.encoder_dim:
        raise UserError(f"Features of {train.features.shape[1]} columns are not of an encoder of {model.encoder_dim}.")
    device = choose_device(settings.device)
    learner = _Learner(model, train.features).to(device)
    batch, size = min(settings.batch_size, len(train.labels)), len(train.labels)
    steps = size // batch
    optimizer = create_optimizer(learner, config.optim, global_batch=batch)
    scheduler = create_schedule(optimizer, config.optim, epochs=settings.epochs, steps_per_epoch=steps)
    counts = torch.bincount(train.labels, minlength=model.num_classes)
    control = Control(config.control, counts, objective, batches=settings.epochs * steps, device=device)
    sample = _shuffled(size, settings.seed, "collapse")[:SAMPLE]
    measured = EncoderFeatures(train.features[sample], train.labels[sample])
    scores: dict[str, float] = {}
    with progress("behind the encoder", total=settings.epochs * steps * batch) as advance:
        for epoch in range(settings.epochs):
            seed_everything(settings.seed, "epoch", epoch)
            averages = _Averages()
            learner.train()
            for step, rows in enumerate(_shuffled(size, settings.seed, "order", epoch)[: steps * batch].split(batch)):
                if scheduler is not None:
                    scheduler.step(epoch)
                    scheduler.step_update(epoch * steps + step)
                targets = train.labels[rows].to(device)
                logits, taps = learner(train.features[rows].to(device))
                loss, parts = objective(logits, targets, taps, heads=model.heads)
                _update(learner, optimizer, loss, settings.clip_grad)
                control.step(parts, optimizer.param_groups[0]["lr"] / optimizer.defaults["lr"])
                averages.add({"loss": loss, **parts, "accuracy": is_right(logits, targets).float().mean()}, len(rows))
                advance(len(rows))
            values, scores = averages.read(), _validate(model, learner, val, objective, device)
            if not torch.isfinite(torch.tensor([values["loss"], scores["loss"]])).all():
                raise diverged(values["loss"], (epoch + 1) * steps)
            lines: dict[str, Mapping[str, float | None]]
            lines = {"train": {**values, "lr": float(optimizer.param_groups[0]["lr"])}, "val": scores}
            if config.control:
                lines["control"] = _correct(control, learner, measured, device)
            for tracker, (split, line) in product(trackers, lines.items()):
                tracker.log({"epoch": epoch + 1, "split": split, **line}, (epoch + 1) * steps)
    for outcome in control.outcome():
        logger.warning("%s", outcome)
    learner.fold()
    model.cpu().eval()
    return scores


def write_best(directory: RunDirectory, model: ControlledModel, facts: Mapping[str, Any]) -> None:
    """Write a model as the best checkpoint of a run, its only one.

    Args:
        directory: of the run.
        model: the model.
        facts: kept with it: ``epoch`` and what else there is to know.
    """
    directory.checkpoints.mkdir(parents=True, exist_ok=True)
    write_weights(directory.checkpoints / BEST, model.state_dict(), describe(model, facts))


def _check_taps(objective: Objective, model: ControlledModel) -> None:
    moving = ("projector",) if model.adapter is None else ("adapter", "projector")
    for tap in (term.tap for term in objective.terms if term.tap not in moving):
        raise UserError(
            f"A loss on tap {tap!r} changes nothing, for it stays as it is: name the {' or the '.join(moving)}."
        )


def _shuffled(size: int, seed: int, *purpose: str | int) -> torch.Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(derive_seed(seed, *purpose)))


def _update(
    learner: nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor, largest_norm: float | None
) -> None:
    optimizer.zero_grad()
    loss.backward()
    if largest_norm is not None:
        nn.utils.clip_grad_norm_(learner.parameters(), largest_norm)
    optimizer.step()


class _Learner(nn.Module):
    """Adapter, projector and head of a model, behind the standardisation that will be folded into them."""

    mean: torch.Tensor

    def __init__(self, model: ControlledModel, features: torch.Tensor) -> None:
        super().__init__()
        assert model.projector is not None
        self.adapter, self.projector, self.head = model.adapter, model.projector, model.head
        parts, mean = features.split(_ROWS), torch.zeros(model.encoder_dim, dtype=torch.float64)
        mean = sum((part.double().sum(0) for part in parts), mean) / len(features)
        variance = sum(float((part.double() - mean).square().sum()) for part in parts) / features.numel()
        self.scale = variance**0.5 or 1.0
        self.reach = _REACH * self.scale
        if self.projector.kind != "plastic":  # a frozen map has no bias to fold a mean into
            mean, self.scale = torch.zeros_like(mean), 1.0
        self.register_buffer("mean", mean.float())

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        features, taps = features.float(), {}
        if self.adapter is not None:
            taps["adapter"] = features = features + self.reach * self.adapter.change(features)
        taps["projector"] = projected = self.projector((features - self.mean) / self.scale)
        return self.head(projected), taps

    @torch.no_grad()
    def fold(self) -> None:
        """Have adapter and projector take features as they are."""
        if self.adapter is not None:
            for parameter in self.adapter.up.parameters():
                parameter.mul_(self.reach)
        first = self.projector.layers[0]
        if isinstance(first, nn.Linear):
            weight = first.weight.double() / self.scale
            first.weight.copy_(weight)
            first.bias.sub_((weight @ self.mean.to(weight)).to(first.bias))


@torch.no_grad()
def _correct(
    control: Control, learner: _Learner, sample: EncoderFeatures, device: torch.device
) -> dict[str, float | None]:
    """Measure the controlled taps on training images and correct their estimates by that; the line of the log."""
    _, taps = learner.eval()(sample.features.to(device))
    control.correct(control.measure(taps, sample.labels))
    for line in control.news():
        logger.warning("%s", line)
    return control.values()


class _Averages:
    """Averages of an epoch, which stay on the device until they are read."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros(()))
        self._count = 0

    def add(self, values: Mapping[str, torch.Tensor], count: int) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums[name].to(value.device) + count * value.detach()
        self._count += count

    def read(self) -> dict[str, float]:
        return {name: float(value) / self._count for name, value in self._sums.items()}


@torch.no_grad()
def _validate(
    model: ControlledModel, learner: _Learner, val: EncoderFeatures, objective: Objective, device: torch.device
) -> dict[str, float]:
    """Task loss (of all terms where there is no task) and accuracy."""
    learner.eval()
    if objective.task != "none":
        objective = Objective(objective.task, smoothing=objective.smoothing, entropy_weights={})
    averages = _Averages()
    for rows in torch.arange(len(val.labels)).split(_ROWS):
        targets = val.labels[rows].to(device)
        logits, taps = learner(val.features[rows].to(device))
        loss, _ = objective(logits, targets, taps, heads=model.heads)
        averages.add({"loss": loss, "accuracy": is_right(logits, targets).float().mean()}, len(rows))
    return averages.read()
