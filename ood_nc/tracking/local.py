"""The run's own log: metrics.jsonl, one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ood_nc.errors import UserError
from ood_nc.files import write_text
from ood_nc.tracking.registry import TRACKERS


class LocalLog:
    """Appends lines to a JSON-lines file, so that an interrupted run leaves every line that was finished.

    Args:
        path: the file; made when it is not there.
        last_step: lines of later steps are dropped first, as is a line that was cut off while being written. A run
            that goes on from a checkpoint passes the checkpoint's step, so each step is in the file once.

    Raises:
        UserError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ood_nc.tracking import LocalLog, read_log
        >>> path = Path(tempfile.mkdtemp(), "metrics.jsonl")
        >>> LocalLog(path).log({"split": "train", "loss": 0.5}, 1)
        >>> read_log(path)
        [{'step': 1, 'split': 'train', 'loss': 0.5}]
    """

    def __init__(self, path: str | Path, *, last_step: int = 0) -> None:
        self.path = Path(path)
        kept = [line for line in read_log(self.path) if line["step"] <= last_step] if self.path.exists() else []
        write_text(self.path, "".join(_to_json(line) for line in kept))

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Append one line, at once on the disk's side of any crash of this process."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_to_json({"step": step, **values}))
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"Cannot write {self.path}: {reason}. Mend that, then go on with --resume.") from error

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Nothing to do: every line is already there, and the summary is in the checkpoints."""


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, without what is no line of a log: one that was cut off, or damaged since.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ood_nc.tracking import read_log
        >>> path = Path(tempfile.mkdtemp(), "metrics.jsonl")
        >>> _ = path.write_text('{"step": 1, "loss": 0.5}\\n{"step": 2, "lo')
        >>> read_log(path)
        [{'step': 1, 'loss': 0.5}]
    """
    lines = []
    for text in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and _is_whole(line):
            lines.append(_without_infinities(line))
    return lines


def _is_whole(line: Mapping[str, Any]) -> bool:
    """Whether a line has a step, and (where it names them) an epoch and a split."""
    step, epoch, split = line.get("step"), line.get("epoch", 0), line.get("split", "train")
    return bool(type(step) is int and abs(step) < 2**63 and type(epoch) in (int, float) and isinstance(split, str))


def _to_json(values: Mapping[str, Any]) -> str:
    """One line of JSON; a number that JSON does not have (nan, inf) becomes null."""
    return json.dumps(_without_infinities(values), ensure_ascii=False, allow_nan=False) + "\n"


def _without_infinities(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, None for a number that is none or beyond every float."""
    return {
        name: None if isinstance(value, (int, float)) and not abs(value) < 1e308 else value
        for name, value in values.items()
    }


def _open(directory: Path, config: Mapping[str, Any], last_step: int) -> LocalLog:
    """The run's own log, metrics.jsonl; always on."""
    return LocalLog(directory / "metrics.jsonl", last_step=last_step)


TRACKERS.add("local", _open)
