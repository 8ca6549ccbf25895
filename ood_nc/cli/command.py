"""What a command is, and the pieces that several commands share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ood_nc
from ood_nc.config import Config, load
from ood_nc.errors import UserError, nearest


@dataclass(frozen=True)
class Command:
    """One command of ``ood-nc``."""

    name: str
    summary: str
    examples: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    execute: Callable[[argparse.Namespace], int]
    takes_config: bool = False


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every command that reads a configuration."""
    parser.add_argument("--config", metavar="FILE", help="YAML file, or the name of one that ships (see the README)")
    parser.add_argument("--print-config", action="store_true", help="show the resolved configuration and stop")


def read_config(path: str | None, overrides: dict[str, Any]) -> Config:
    """The configuration from a file (or a shipped one by name) and the flags."""
    return load(None if path is None else find_config(path), overrides)


def read_run_config(path: str | None, overrides: dict[str, Any], *, resume: bool) -> Config:
    """The configuration of a training command: a resumed run brings its own, where no file is given."""
    # A W&B agent starts many runs of one configuration: each goes by the name the agent has for it.
    if "WANDB_SWEEP_ID" in os.environ and "WANDB_RUN_ID" in os.environ:
        overrides = {"experiment": os.environ["WANDB_RUN_ID"], **overrides}
    where: dict[str, Any] = {"output": "runs"}
    where |= {key: value for key, value in overrides.items() if key in ("output", "experiment")}
    own = Path(str(where["output"])) / str(where.get("experiment")) / "config.yaml"
    if resume and path is None and "experiment" in where and own.is_file():
        return load(own, {**where, **overrides})
    return read_config(path, overrides)


# What a trained model is: no later command can change it.
_SETTLED = ("model.", "loss.", "optim.", "augment.", "data.pixels.", "train.")
_FREE = ("train.seed", "train.workers", "train.device")


def load_settled(directory: Path, overrides: dict[str, Any]) -> Config:
    """The configuration of a finished run, with what a command on it wants otherwise.

    Raises:
        UserError: that would be another model; a flag that changes nothing is a mistake.
    """
    for key in overrides:
        if key.startswith(_SETTLED) and key not in _FREE:
            hint = " Images of a forward pass: --evaluation.batch_size." if key == "train.batch_size" else ""
            raise UserError(f"{key} is settled by the training of {directory}, and cannot be set for it here.{hint}")
    return load(directory / "config.yaml", overrides)


def shipped_configs(folder: str = ".") -> dict[str, Path]:
    """What ships in ``configs``, or a folder of it, by name: beside the package in a checkout, else inside it."""
    package = Path(ood_nc.__file__).parent
    for place in (package / "configs", package.parent / "configs"):
        if place.is_dir():
            return {path.stem: path for path in sorted((place / folder).glob("*.yaml"))}
    return {}


def find_config(path: str, what: str = "configuration", folder: str = ".") -> Path:
    """The file at ``path``; or the one of that name that ships, in ``folder`` or in the one that ``path`` names.

    ``configs/graphs/cora.yaml`` is found from any folder, as is ``graphs/cora``.

    Raises:
        UserError: there is neither.
    """
    if Path(path).is_file():
        return Path(path)
    inner, _, name = path.removeprefix("configs/").removesuffix(".yaml").rpartition("/")
    shipped = shipped_configs(inner or folder)
    if name in shipped:
        return shipped[name]
    if Path(path).suffix in (".yaml", ".yml"):
        raise UserError(f"No {what} file {path}.{nearest(name, shipped)}")
    known = shipped_configs(folder)
    raise UserError(f"No {what} {path!r}.{nearest(name, known)} Give a YAML file or one of: {', '.join(known)}.")
