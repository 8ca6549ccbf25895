"""The run directory: where its files are, who may write into it, and what it says about its origin."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import ood_nc
from ood_nc.config import Config
from ood_nc.errors import UserError
from ood_nc.files import write_text
from ood_nc.training.launch import recorded_variables

if TYPE_CHECKING:
    from ood_nc.training.setup import Setup

PACKAGES = (
    "torch", "torchvision", "timm", "accelerate", "safetensors", "numpy", "scikit-learn",
    "faiss-cpu", "faiss-gpu", "wandb",
)  # fmt: skip

# What a run may change when it is resumed: it moves where and how things are computed or shown, not what is trained.
FREE_ON_RESUME = (
    "output", "experiment", "evaluation.", "tracking.",
    "data.root", "data.cache", "data.test", "data.suite", "data.ood", "data.transfer", "data.eval_limit",
    "train.workers", "train.device", "train.shard", "train.patience",
    "train.log_interval", "train.collapse_interval", "train.checkpoint_interval",
    "train.recovery_interval",
)  # fmt: skip


@dataclass(frozen=True)
class RunDirectory:
    """The files of one run."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        """Versions, command, device."""
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        """The log, a line per logging step."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of weights and training states."""
        return self.path / "checkpoints"

    @property
    def status(self) -> Path:
        """Whether the run is running, finished, failed or interrupted."""
        return self.path / "status.json"

    def read_status(self) -> dict[str, Any]:
        """What `write_status` wrote; empty where the run says nothing. A killed process leaves the state running."""
        try:
            found = json.loads(self.status.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def write_status(self, state: str, reason: str, progress: Mapping[str, Any]) -> None:
        """Say how the run is.

        Args:
            state: running, finished, failed or interrupted.
            reason: what it failed of.
            progress: finished epochs and the best of them.
        """
        time = datetime.now(timezone.utc).isoformat(timespec="seconds")
        status = {"state": state, "reason": reason, **progress, "time": time}
        write_text(self.status, json.dumps(status, ensure_ascii=False) + "\n")

    @property
    def holds_a_run(self) -> bool:
        """Whether a run has written here, finished or not."""
        return self.config.exists() or self.was_trained_in

    @property
    def was_trained_in(self) -> bool:
        """Whether a training has begun here, not only the evaluation of another model."""
        return self.metrics.exists() or self.checkpoints.exists()


def check_start(directory: RunDirectory, *, resume: bool) -> None:
    """Refuse to overwrite a run, and to resume one that is not there.

    Raises:
        UserError: one of these; the message says what to do.
    """
    path = directory.path
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file, not a folder for a run: choose another --output or --experiment.")
    if not resume:
        if directory.holds_a_run:
            raise UserError(f"{path} already holds a run: go on with --resume, or choose another --experiment.")
        return
    if not path.is_dir():
        raise UserError(f"There is no run {path} to resume: leave --resume out to start it.")


def check_same(before: Config, now: Config, path: Path) -> None:
    """Refuse to go on in ``path`` as another run than the one that is there.

    Raises:
        UserError: it names the key.
    """
    old, new = _flat(before.model_dump(mode="json")), _flat(now.model_dump(mode="json"))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) == new.get(key) or key.startswith(FREE_ON_RESUME):
            continue
        if key == "train.epochs":
            if new[key] > old[key]:
                continue
            raise UserError(f"train.epochs was {old[key]} in {path} and is {new[key]} now: on resume it may only grow.")
        raise UserError(
            f"{key} was {old.get(key)!r} in {path} and is {new.get(key)!r} now: resume with the value it "
            "had, or choose another --experiment."
        )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def record_start(directory: RunDirectory, setup: Setup, ignored: list[str]) -> None:
    """Write config.yaml and environment.json; a resumed run adds itself to the latter.

    Args:
        directory: the run's.
        setup: what it trains with.
        ignored: variables that were set and that the run does not look at.
    """
    config, accelerator = setup.config, setup.accelerator
    session = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": sys.argv,
        "device": _device_name(accelerator.device),
        "processes": accelerator.num_processes,
        "images_per_step": setup.global_batch,
        "learning_rate": float(setup.optimizer.defaults["lr"]),
        "class_weights": None if (weights := setup.objective.class_weights) is None else weights.tolist(),
        "threads": torch.get_num_threads(),
        "variables": recorded_variables(),
        "ignored_variables": ignored,
        "versions": versions(),
        "git": git_state(Path.cwd()),
    }
    environment = {"seed": config.train.seed, **session, "platform": platform.platform(), "resumed": []}
    if directory.environment.exists():
        environment = json.loads(directory.environment.read_text(encoding="utf-8"))
        environment["resumed"].append(session)
    write_text(directory.config, config.to_yaml())
    write_text(directory.environment, json.dumps(environment, indent=2, ensure_ascii=False) + "\n")


def _device_name(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that make the numbers; of the two faiss wheels the one installed."""
    found = {"ood_nc": ood_nc.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit, branch and whether there are changes, of the project that ``folder`` is in; None where there is none."""

    def git(*arguments: str) -> str:
        answer = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
        return answer.stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "branch": git("rev-parse", "--abbrev-ref", "HEAD"),
            "changed": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None
