"""Weights & Biases: the same numbers as the local log."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ood_nc.files import write_text
from ood_nc.tracking.registry import TRACKERS

logger = logging.getLogger(__name__)

# W&B shows a run as failed where this is not 0.
_EXIT_CODES = {"failed": 1, "interrupted": 130}


class WandbLog:
    """Logs to Weights & Biases, offline where there is no key (``WANDB_MODE`` decides when it is set).

    Its files are in ``directory/wandb``, and so is the run's id: a run that is resumed goes on as the same one, also
    where its folder was moved; the copy of a folder that is still there becomes a run of its own. Steps are an axis of
    their own, because wandb drops every line at or below the last step it saw, and a resumed run goes back to its
    checkpoint. `open_trackers` sees to it that nothing wandb raises ends a run.

    Args:
        directory: the run directory.
        config: the resolved configuration, nested; its section ``tracking`` says the project, the entity (None: the
            account's default), the tags, the group and the part in it.
    """

    def __init__(self, directory: str | Path, config: Mapping[str, Any]) -> None:
        import wandb

        settings = config["tracking"]
        self._run: Any = wandb.init(
            project=settings["wandb_project"],
            entity=settings["wandb_entity"],
            tags=list(settings["wandb_tags"]),
            config=dict(config),
            group=settings.get("wandb_group"),
            job_type=settings.get("wandb_job_type"),
            dir=str(directory),
            name=Path(directory).name,
            id=_run_id(Path(directory) / "wandb"),
            resume="allow",
            mode=None if os.environ.get("WANDB_MODE") or _has_key(wandb) else "offline",
            settings=wandb.Settings(silent=True, console="off", disable_code=True),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Log one line; names get their split in front (``train/loss``), as W&B groups its panels by it."""
        split = values.get("split", "train")
        payload = {
            name if name.startswith(f"{split}/") or name == "epoch" else f"{split}/{name}": value
            for name, value in values.items()
            if name != "split"
        }
        self._run.log({"step": step, **payload})

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary and close the run, as failed where its ``state`` says so."""
        self._run.summary.update(dict(summary))
        self._run.finish(exit_code=_EXIT_CODES.get(str(summary.get("state")), 0))


def sync_command(directory: str | Path) -> str | None:
    """The command that uploads all offline parts of a run as one run; None where it has none.

    A run that was stopped and resumed offline is in several folders under one id. Uploaded one by one, each would
    replace the one before.
    """
    folder = Path(directory) / "wandb"
    if not any(folder.glob("offline-run-*")):
        return None
    from wandb.cli.cli import sync

    append = "--append " if any(option.name == "append" for option in sync.params) else ""
    return f"wandb sync {append}--id {_run_id(folder)} {shlex.quote(str(folder))}/offline-run-*"


def _run_id(folder: Path) -> str:
    """The run's id, made on first use and kept in ``folder``, beside the place it is used at.

    A folder that was moved goes on with its id. One that was copied, so that its id is still at that place too, gets
    another: two writers of one run would take each other's lines.
    """
    path, place, here = folder / "run-id.txt", folder / "run-place.json", folder.resolve()
    if not path.exists():
        write_text(path, secrets.token_hex(4))
    known = path.read_text(encoding="utf-8").strip()
    before = Path(json.loads(place.read_text(encoding="utf-8"))) if place.exists() else here
    if before != here and _is_of_another(before / path.name, path, known):
        write_text(path, secrets.token_hex(4))
        logger.warning(
            "%s was copied from %s, which goes on as the W&B run %s: the copy is a run of its own, %s.",
            folder.parent, before.parent, known, path.read_text(encoding="utf-8"),
        )  # fmt: skip
    if before != here or not place.exists():
        write_text(place, json.dumps(str(here)))
    return path.read_text(encoding="utf-8").strip()


def _is_of_another(there: Path, here: Path, known: str) -> bool:
    """Whether the file ``there`` is another than ``here`` and holds the same id, ``known``."""
    try:
        return there.read_text(encoding="utf-8").strip() == known and not there.samefile(here)
    except OSError:
        return False


def _has_key(wandb: Any) -> bool:
    """Whether wandb finds a key; it is never asked for."""
    try:
        return bool(wandb.login(prompt=False, verify=False))
    except TypeError:  # versions whose login always asks
        return bool(wandb.api.api_key)


def _open(directory: Path, config: Mapping[str, Any], last_step: int) -> WandbLog:
    """Weights & Biases, offline without a key (short: tracking.log_wandb)."""
    return WandbLog(directory, config)


TRACKERS.add("wandb", _open)
