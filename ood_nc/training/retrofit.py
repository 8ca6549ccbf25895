"""A projector and a head for a network that is finished: they learn from cached features, its backbone stays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from ood_nc.config import Config, ProjectorConfig
from ood_nc.devices import choose_device
from ood_nc.errors import UserError
from ood_nc.features import Derive
from ood_nc.losses import Objective
from ood_nc.models import ControlledModel, Projector
from ood_nc.progress import progress
from ood_nc.tracking import Tracker
from ood_nc.training.checkpoints import BEST, describe, write_weights
from ood_nc.training.measurement import diverged, is_right
from ood_nc.training.optimization import create_optimizer, create_schedule
from ood_nc.training.run_directory import RunDirectory
from ood_nc.training.seeds import derive_seed, seed_everything
from ood_nc.training.setup import create_objective

_ROWS = 8192


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
    """The network with a projector behind its encoder and a linear head, both new; its backbone is copied.

    Args:
        model: without a projector; it is not changed.
        projector: what stands behind the encoder.
        class_names: of the new head; they may be others than the network was trained on.
        seed: of the new weights.

    Raises:
        UserError: the network has a projector already, or ``projector`` is none.
    """
    options = projector.model_dump()
    kind = str(options.pop("kind"))
    if model.projector is not None:
        raise UserError("The network has a projector already: retrofit takes one without.")
    if kind == "none":
        raise UserError("model.projector.kind is none: retrofit puts a projector behind the encoder, so name one.")
    spec = model.spec()
    taps = [tap for tap in spec["taps"] if tap not in ("encoder", "projector")]
    changed = {"num_classes": len(class_names), "class_names": list(class_names), "head": "linear", "auxiliary": []}
    changed |= {"projector": kind, "projector_options": Projector(model.encoder_dim, kind, **options).options()}
    seed_everything(seed, "model")
    result = ControlledModel.from_spec({**spec, **changed, "taps": [*taps, "encoder", "projector"]})
    result.backbone.load_state_dict(model.backbone.state_dict())
    return result.eval()


def from_encoder(model: ControlledModel) -> Derive:
    """What gives the logits and all taps of a model with a projector from those of its backbone alone."""
    projector, head = model.projector, model.head
    assert projector is not None

    def derive(taps: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        projected = projector(taps["encoder"].to(model.head_weight))
        return head(projected).cpu(), {**taps, "projector": projected.cpu()}

    return derive


def fit_behind_encoder(
    model: ControlledModel,
    train: EncoderFeatures,
    val: EncoderFeatures,
    config: Config,
    trackers: Sequence[Tracker] = (),
) -> dict[str, float]:
    """Train the projector and the head of a model on features of its encoder; nothing else of it changes.

    A trainable projector learns from features that are centred and divided by one number, the root of their mean
    variance, so that one learning rate fits encoders of any scale; both are then folded into its first map. The weights
    are those of the last epoch.

    Args:
        model: with a projector, from `with_projector`.
        train: of ID training images.
        val: of held-out ID images.
        config: loss, optimiser, schedule, epochs, batch size, seed and device.
        trackers: receive a line on both sets after every epoch.

    Returns:
        ``loss``, of the task, and ``accuracy`` on ``val`` after the last epoch.

    Raises:
        UserError: a loss on another tap than the projector, features that are not the encoder's, or a loss that is not
            finite.
    """
    objective, settings = create_objective(config, model, train.labels), config.train
    for term in objective.terms:
        if term.tap != "projector":
            raise UserError(f"A loss on tap {term.tap!r} changes nothing, for it stays as it is: name the projector.")
    if train.features.shape[1] != model.encoder_dim:
        raise UserError(f"Features of {train.features.shape[1]} columns are not of an encoder of {model.encoder_dim}.")
    device = choose_device(settings.device)
    learner = _Learner(model, train.features).to(device)
    batch, size = min(settings.batch_size, len(train.labels)), len(train.labels)
    steps = size // batch
    optimizer = create_optimizer(learner, config.optim, global_batch=batch)
    scheduler = create_schedule(optimizer, config.optim, epochs=settings.epochs, steps_per_epoch=steps)
    scores: dict[str, float] = {}
    with progress("projector and head", total=settings.epochs * steps * batch) as advance:
        for epoch in range(settings.epochs):
            seed_everything(settings.seed, "epoch", epoch)
            generator = torch.Generator().manual_seed(derive_seed(settings.seed, "order", epoch))
            averages = _Averages()
            learner.train()
            for step, rows in enumerate(torch.randperm(size, generator=generator)[: steps * batch].split(batch)):
                if scheduler is not None:
                    scheduler.step(epoch)
                    scheduler.step_update(epoch * steps + step)
                targets = train.labels[rows].to(device)
                logits, projected = learner(train.features[rows].to(device))
                loss, parts = objective(logits, targets, {"projector": projected}, heads=model.heads)
                optimizer.zero_grad()
                loss.backward()
                if settings.clip_grad is not None:
                    nn.utils.clip_grad_norm_(learner.parameters(), settings.clip_grad)
                optimizer.step()
                averages.add({"loss": loss, **parts, "accuracy": is_right(logits, targets).float().mean()}, len(rows))
                advance(len(rows))
            values, scores = averages.read(), _validate(model, learner, val, objective, device)
            if not torch.isfinite(torch.tensor([values["loss"], scores["loss"]])).all():
                raise diverged(values["loss"], (epoch + 1) * steps)
            rate = float(optimizer.param_groups[0]["lr"])
            for tracker in trackers:
                done = {"epoch": epoch + 1}
                tracker.log({**done, "split": "train", **values, "lr": rate}, (epoch + 1) * steps)
                tracker.log({**done, "split": "val", **scores}, (epoch + 1) * steps)
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
    write_weights(directory.checkpoints / BEST, model, describe(model, facts))


class _Learner(nn.Module):
    """Projector and head of a model, behind the standardisation that will be folded into them."""

    mean: torch.Tensor

    def __init__(self, model: ControlledModel, features: torch.Tensor) -> None:
        super().__init__()
        assert model.projector is not None
        self.projector, self.head = model.projector, model.head
        mean, scale = torch.zeros(model.encoder_dim, dtype=torch.float64), 1.0
        if self.projector.kind == "plastic":  # a frozen map has no bias to fold a mean into
            parts = features.split(_ROWS)
            mean = sum((part.double().sum(0) for part in parts), mean) / len(features)
            variance = sum(float((part.double() - mean).square().sum()) for part in parts) / features.numel()
            scale = variance**0.5 or 1.0
        self.register_buffer("mean", mean.float())
        self.scale = scale

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        projected = self.projector((features.float() - self.mean) / self.scale)
        return self.head(projected), projected

    @torch.no_grad()
    def fold(self) -> None:
        """Have the projector take features as they are."""
        first = self.projector.layers[0]
        if isinstance(first, nn.Linear):
            weight = first.weight.double() / self.scale
            first.weight.copy_(weight)
            first.bias.sub_((weight @ self.mean.to(weight)).to(first.bias))


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
        logits, projected = learner(val.features[rows].to(device))
        loss, _ = objective(logits, targets, {"projector": projected}, heads=model.heads)
        averages.add({"loss": loss, "accuracy": is_right(logits, targets).float().mean()}, len(rows))
    return averages.read()
