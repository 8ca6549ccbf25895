"""A finished run, loaded again."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from ood_nc.config import Config, load
from ood_nc.errors import UserError
from ood_nc.models import ControlledModel
from ood_nc.training.checkpoints import NEXT, STATE, fill, load_model, read_last
from ood_nc.training.run_directory import RunDirectory

logger = logging.getLogger(__name__)


def load_run(
    path: str | Path, *, which: str = "best", device: str | torch.device = "cpu"
) -> tuple[ControlledModel, Config]:
    """The model of a run and the run's configuration.

    The model is rebuilt from what its checkpoint says about it, with the class names it was trained on.

    Args:
        path: the run directory.
        which: ``best`` (by validation accuracy), ``last``, or a kept ``epoch-N``; each of the averaged weights, where
            the run averages them.
        device: where the model goes.

    Returns:
        The model, in evaluation mode, and the configuration.

    Raises:
        UserError: no folder, no run, no such checkpoint, or one that does not fit the model it names.
    """
    directory = RunDirectory(Path(path))
    if not directory.path.is_dir():
        raise UserError(f"There is no run directory {path}: give the folder that `ood-nc train` wrote.")
    if not directory.config.exists():
        raise UserError(f"{path} is not a run directory: it holds no config.yaml. Give one that `ood-nc train` wrote.")
    config = load(directory.config)
    if config.graphs is not None:
        raise UserError(f"{path} is a run on graphs, which ood-nc run trains and measures in one: read its results.")
    weights = directory.checkpoints / f"{which}.safetensors"
    if not weights.exists():
        there = sorted(file.stem for file in directory.checkpoints.glob("[!.]*.safetensors") if file.name != NEXT)
        raise UserError(f"{path} has no checkpoint {which!r}; it has: {', '.join(there) or 'none, train it first'}.")
    status = directory.read_status()
    model, facts = load_model(weights)
    if which == "last" and config.train.model_ema:
        fill(model, _averaged(directory), weights)
    if status.get("state", "finished") != "finished":
        so_far = f"{which} checkpoint so far, epoch {facts['epoch']} of {config.train.epochs}"
        logger.warning("%s has not finished (%s): its %s, is taken.", path, status["state"], so_far)
    return model.to(device).eval(), config


def _averaged(directory: RunDirectory) -> dict[str, torch.Tensor]:
    """The averaged weights of the last epoch: its checkpoint holds those that training goes on from."""
    last = read_last(directory.checkpoints) if (directory.checkpoints / STATE).exists() else None
    if last is None:
        raise UserError(
            f"The averaged weights of the last epoch are in {directory.checkpoints / STATE}, which is gone: take best."
        )
    averaged: dict[str, torch.Tensor] = last[1]["ema"]
    return averaged
