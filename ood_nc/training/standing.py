"""How far a run is, and how that is kept and restored."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object, send_to_device

from ood_nc.config import TrainConfig
from ood_nc.errors import UserError
from ood_nc.sealed import read_sealed
from ood_nc.training import checkpoints
from ood_nc.training.setup import Setup
from ood_nc.training.sharding import share_of_moments, share_of_weights, whole

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Standing:
    """Finished epochs and optimiser steps (of the epoch after them too), and the best epoch with its accuracy.

    ``best_value`` is what it is the best by: ``train.eval_metric``. An epoch in which every controlled tap is on its
    target comes before one in which one is not; ``best_met`` says which the best is.
    """

    epoch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_accuracy: float = -1.0
    best_value: float | None = None
    best_met: bool = False


def is_over(epoch: int, best_epoch: int, train: TrainConfig) -> bool:
    """Whether so many epochs are all: those that were asked for, or ``train.patience`` since the best."""
    return epoch >= train.epochs or (train.patience is not None and epoch - best_epoch >= train.patience)


def keep(setup: Setup, before: Standing, folder: Path, scores: Mapping[str, float]) -> Standing:
    """Write the checkpoints of the epoch after ``before``.

    The best and the kept ones come first: should the process die between them and the last one, the epoch is repeated
    and they are written again.

    Args:
        setup: the run, at the end of that epoch.
        before: the standing at its beginning.
        folder: the folder of checkpoints.
        scores: ``accuracy`` and ``loss`` on the validation split; the first epoch with the best is the best.

    Returns:
        The standing after it.
    """
    epoch, step = before.epoch + 1, (before.epoch + 1) * setup.steps_per_epoch
    accuracy, metric = scores["accuracy"], setup.config.train.eval_metric
    value, sign = scores[metric], -1 if metric == "loss" else 1
    met = setup.control is None or setup.control.met
    best = before.best_value is None or (met, sign * value) > (before.best_met, sign * before.best_value)
    after = Standing(epoch, step, epoch, accuracy, value, met) if best else replace(before, epoch=epoch, step=step)
    facts = {"epoch": epoch, "step": step, "val_accuracy": accuracy, "data": setup.train_plain.fingerprint()}
    interval = setup.config.train.checkpoint_interval
    names = [checkpoints.BEST] * best + [f"epoch-{epoch}.safetensors"] * (interval > 0 and epoch % interval == 0)
    if names:
        main, header = setup.accelerator.is_main_process, checkpoints.describe(setup.measured, facts)
        weights = whole(setup.measured.state_dict(), kept=main)
        for name in names if main else []:
            checkpoints.write_weights(folder / name, weights, header)
    save(setup, after, folder, facts)
    return after


def save(setup: Setup, standing: Standing, folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the checkpoint to go on from; every process calls it, between two optimiser steps.

    Args:
        setup: the run.
        standing: where it is.
        folder: the folder of checkpoints.
        facts: what the header of the weights says.
    """
    main = setup.accelerator.is_main_process
    own = gather_object([_own(setup)])
    weights, optimizer = (whole(part.state_dict(), kept=main) for part in (setup.model, setup.optimizer))
    if not main:
        return
    scaler = setup.accelerator.scaler
    state = {
        **asdict(standing),
        "optimizer": optimizer,
        "scaler": None if scaler is None else scaler.state_dict(),
        "ema": None if setup.ema is None else setup.ema.module.state_dict(),
        "own": own,
        "processes": setup.accelerator.num_processes,
        "data": setup.train_plain.fingerprint(),
        "val": setup.val.fingerprint(),
        "outliers": None if setup.shown is None else setup.shown.fingerprint(),
        "config": setup.config.model_dump(mode="json"),
    }
    checkpoints.write_last(folder, weights, checkpoints.describe(setup.measured, facts), state)


def _own(setup: Setup) -> dict[str, Any]:
    """What differs between the processes: the batches that each has taken in and not yet joined with the others'."""
    parts = {"averages": setup.averages, "tracker": setup.tracker, "control": setup.control}
    return {name: send_to_device(part.state_dict(), "cpu") for name, part in parts.items() if part is not None}


def restore(setup: Setup, weights: Path, state: Mapping[str, Any]) -> Standing:
    """Put a run back to where its last checkpoint was written.

    The schedule is a function of epoch and step, the order of the images of the epoch, and everything random of the
    seed and the batch, so model, optimiser, scaler, control, log and counts are all there is to restore. Batch
    statistics are those of the first process, as they are for all at the next step of an uninterrupted run.

    Raises:
        UserError: the run had another number of processes or other data, or the weights are of another model.
    """
    processes = setup.accelerator.num_processes
    if state["processes"] != processes:
        raise UserError(f"The run had {state['processes']} processes and has {processes} now: resume it with as many.")
    for key, what, images in (
        ("data", "training data", setup.train_plain),
        ("outliers", "set of outliers", setup.shown),
    ):
        # A run may have begun before its outliers were kept.
        if images is not None and state.get(key, images.fingerprint()) != images.fingerprint():
            raise UserError(
                f"The {what} has changed since the run was interrupted: start one under another --experiment."
            )
    if state.get("val", setup.val.fingerprint()) != setup.val.fingerprint() and setup.accelerator.is_main_process:
        logger.warning(
            "The validation data has changed since epoch %d: what was the best before was measured on other images.",
            state["epoch"],
        )
    checkpoints.fill(setup.model, share_of_weights(read_sealed(weights)[1], setup.model), weights)
    parameters = [parameter for group in setup.optimizer.param_groups for parameter in group["params"]]
    setup.optimizer.load_state_dict(share_of_moments(state["optimizer"], parameters))
    if setup.accelerator.scaler is not None and state["scaler"]:
        setup.accelerator.scaler.load_state_dict(state["scaler"])
    if setup.ema is not None:
        setup.ema.module.load_state_dict(state["ema"])
    own = state["own"][setup.accelerator.process_index]
    setup.averages.load_state_dict(own["averages"])
    setup.tracker = setup.new_tracker()
    if setup.tracker is not None and "tracker" in own:
        setup.tracker.load_state_dict(own["tracker"], device=setup.accelerator.device)
    if setup.control is not None:
        setup.control.load_state_dict(own["control"])
    # A run may have begun before there was a choice of metric, or the target counted.
    known = {"best_value": state["best_accuracy"], "best_met": setup.control is None, **state}
    return Standing(**{field.name: known[field.name] for field in fields(Standing)})
