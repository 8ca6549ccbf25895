"""A model that this project did not train: its configuration, from flags, and its weights."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ood_nc.cli.command import read_config
from ood_nc.config import Config
from ood_nc.errors import UserError

if TYPE_CHECKING:
    from ood_nc.models import ControlledModel

logger = logging.getLogger(__name__)


def foreign_config(arguments: argparse.Namespace, overrides: dict[str, Any], *, split_id: bool = True) -> Config:
    """The configuration of a command on a model that this project did not train.

    Args:
        arguments: with ``config`` and ``id``.
        overrides: dotted keys.
        split_id: keep a fifth of the ID images for the test.
    """
    command = "evaluate" if split_id else "fit"
    if arguments.config is None and "model.name" not in overrides:
        raise UserError(f"{command} needs a run directory, or --model NAME --id FOLDER: see ood-nc {command} --help.")
    overrides = {"model.projector.kind": "none", "loss.entropy_weight": 0.0, **overrides}
    if arguments.id is not None and split_id:
        overrides = {"data.train": f"{arguments.id}::@train", "data.test": f"{arguments.id}::@test", **overrides}
    elif arguments.id is not None:
        overrides = {"data.train": arguments.id, "data.test": None, "data.val_fraction": 0.2, **overrides}
    elif arguments.config is None and "data.train" not in overrides:
        raise UserError(f"{command} --model needs the ID images: --id FOLDER.")
    if "experiment" not in overrides:
        overrides["experiment"] = f"{command}-{Path(str(overrides.get('model.name', arguments.config))).stem}"
    return read_config(arguments.config, overrides)


def foreign_model(config: Config) -> ControlledModel:
    """A model that this project did not train, with its weights."""
    from ood_nc.models import load_foreign

    model, notes = load_foreign(config.model)
    model.preprocessing["pixels"] = config.data.pixels.model_dump(mode="json")
    for note in notes:
        logger.warning("%s", note)
    return model
