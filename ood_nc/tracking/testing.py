"""What every tracker must hold to: ``check_tracker(open_my_tracker)`` in the tests of a package that adds one."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

from ood_nc.conformance import require, run_checks
from ood_nc.tracking.registry import TRACKERS, OpenTracker

_CONFIG: dict[str, Any] = {
    "output": "runs",
    "train": {"epochs": 2, "seed": 0},
    "tracking": {"log_wandb": False, "wandb_project": "ood_nc", "wandb_entity": None, "wandb_tags": []},
}
_LINES: tuple[tuple[dict[str, Any], int], ...] = (
    ({"epoch": 0.5, "split": "train", "loss": 1.25, "entropy/encoder": -0.5, "lr": 1e-3}, 5),
    ({"epoch": 0.5, "split": "tracked", "collapse/encoder/nc1_ratio": None}, 5),
    ({"epoch": 1.0, "split": "val", "loss": float("nan"), "accuracy": 0.5}, 10),
)


def check_tracker(tracker: OpenTracker | str) -> None:
    """Check a tracker's opener, or the registered one of that name: a run, a resumed run, an empty one.

    Every line may hold numbers, None and NaN, under names with slashes, and may repeat the step of the line before.

    Raises:
        CheckError: it breaks the protocol; the message says how.
        UserError: no tracker of that name.

    Example:
        >>> from ood_nc.tracking import check_tracker
        >>> check_tracker("local")
    """
    run_checks(TRACKERS, tracker, (_check_runs,))


def _check_runs(opener: OpenTracker, what: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for last_step, lines in ((0, _LINES), (5, _LINES[2:]), (10, ())):
            _check_run(opener, what, Path(folder), last_step, lines)


def _check_run(
    opener: OpenTracker, what: str, folder: Path, last_step: int, lines: tuple[tuple[dict[str, Any], int], ...]
) -> None:
    config, lines, before = copy.deepcopy(_CONFIG), copy.deepcopy(lines), repr((_CONFIG, lines))
    try:
        opened = opener(folder, config, last_step)
    except Exception as error:
        require(False, what, f"cannot be opened at step {last_step} ({type(error).__name__}: {error})")
    for method in ("log", "finish"):
        require(callable(getattr(opened, method, None)), what, f"opens something without a method {method}")
    try:
        for values, step in lines:
            opened.log(values, step)
        opened.finish({"best_accuracy": 0.5, "best_epoch": 1})
    except Exception as error:
        require(False, what, f"fails in a run from step {last_step} ({type(error).__name__}: {error})")
    require(repr((config, lines)) == before, what, "changes the lines or the configuration")
