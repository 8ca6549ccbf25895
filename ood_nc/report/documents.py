"""Reading what a run left behind: results.json, and beside it metrics.jsonl, config.yaml and environment.json."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ood_nc.errors import UserError

SCHEMA_VERSION = 1

_ROW_COLUMNS = frozenset(
    ("tap", "depth", "kind", "dataset", "group", "method", "metric", "value", "low", "high", "n", "protocol")
)

Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """The documents of one run.

    Attributes:
        name: what the report calls it, distinct among the runs of one report.
        group: the name without its seed; runs of one group share a colour.
        directory: where it lies.
        identity: what was run.
        rows: the long table, of one protocol.
        other_protocols: the protocols whose rows are left out.
        relations: correlations of collapse with errors.
        choices: the taps collapse alone would choose.
        histograms: histograms of scores.
        log: lines of metrics.jsonl; empty for a model that this project did not train.
        config: config.yaml as text.
        environment: environment.json.
    """

    name: str
    group: str
    directory: Path
    identity: Mapping[str, Any]
    rows: Sequence[Row]
    other_protocols: Sequence[str]
    relations: Sequence[Row]
    choices: Sequence[Row]
    histograms: Sequence[Row]
    log: Sequence[Row]
    config: str | None
    environment: Mapping[str, Any] | None

    @property
    def taps(self) -> list[str]:
        """Names of the taps in depth order."""
        return [tap["name"] for tap in sorted(self.identity["taps"], key=lambda tap: tap["depth"])]

    @property
    def head_tap(self) -> str:
        """The tap that the head reads: stated, or the deepest."""
        return str(self.identity.get("head_tap") or self.taps[-1])


def read_runs(directories: Sequence[Path]) -> list[Run]:
    """Read several runs; equal names are numbered, as in the comparison document."""
    runs: list[Run] = []
    for directory in directories:
        runs.append(_read_run(directory, [run.name for run in runs]))
    return runs


def check_schema(document: Any, where: str) -> None:
    """Refuse what is not a document of a schema this version knows.

    Raises:
        UserError: one line.
    """
    schema = document.get("schema") if isinstance(document, Mapping) else None
    if not isinstance(schema, int):
        raise UserError(f"{where} does not name its schema: it is no results document; evaluate the run again.")
    if schema > SCHEMA_VERSION:
        raise UserError(
            f"{where} has schema {schema}, this version reads up to {SCHEMA_VERSION}: install a newer ood_nc."
        )


def _read_run(directory: Path, taken: Sequence[str]) -> Run:
    path = directory / "results.json"
    if not path.is_file():
        raise UserError(f"No results.json in {directory}: evaluate the run first (ood-nc evaluate {directory}).")
    document = _read_json(path)
    check_schema(document, str(path))
    try:
        name = str(document["identity"].get("run") or directory.name)
        rows, other_protocols = _one_protocol(_checked_rows(document["rows"], path))
        run = Run(
            name=_distinct(name, taken),
            group=re.sub(r"[-_. ]*seed[-_]?\d+", "", name) or name,
            directory=directory,
            identity=document["identity"],
            rows=rows,
            other_protocols=other_protocols,
            relations=document.get("relations") or [],
            choices=document.get("choices") or [],
            histograms=(document.get("series") or {}).get("histograms") or [],
            log=_read_log(directory / "metrics.jsonl"),
            config=_read_text(directory / "config.yaml"),
            environment=_read_json(directory / "environment.json")
            if (directory / "environment.json").is_file()
            else None,
        )
        if not run.taps:
            raise KeyError("taps")
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}): evaluate the run again.") from None
    return run


def _distinct(name: str, taken: Sequence[str]) -> str:
    like = [other for other in taken if other == name or re.fullmatch(re.escape(name) + r" \(\d+\)", other)]
    return f"{name} ({len(like) + 1})" if like else name


def _checked_rows(rows: Sequence[Row], path: Path) -> Sequence[Row]:
    for number, row in enumerate(rows):
        missing = sorted(_ROW_COLUMNS - row.keys())
        if missing:
            raise UserError(f"{path}: row {number} lacks the column {missing[0]!r}: evaluate the run again.")
        if row["metric"] == "fpr95":
            raise UserError(f"{path}: row {number} is a bare 'fpr95': its name must say which side is positive.")
    return rows


def _one_protocol(rows: Sequence[Row]) -> tuple[Sequence[Row], list[str]]:
    """The rows of the strict protocol (else of the first), so that numbers of two protocols never share a line."""
    protocols = list(dict.fromkeys(row["protocol"] for row in rows))
    if len(protocols) < 2:
        return rows, []
    kept = "strict" if "strict" in protocols else protocols[0]
    return [row for row in rows if row["protocol"] == kept], [name for name in protocols if name != kept]


def _read_text(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read {path}: {error}.") from None


def _read_json(path: Path) -> Any:
    text = _read_text(path)
    try:
        return json.loads(text or "")
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno} is not JSON ({error.msg}): evaluate the run again.") from None


def _read_log(path: Path) -> list[Row]:
    """The lines of a metrics.jsonl; one that was cut off while being written is left out."""
    lines = []
    for text in (_read_text(path) or "").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict) and "step" in line:
            lines.append(line)
    return lines


def settings(run: Run) -> dict[str, Any]:
    """The configuration of a run, flat, by dotted key; empty where there is none."""
    try:
        values = yaml.safe_load(run.config or "")
    except yaml.YAMLError:
        return {}
    return _flat(values) if isinstance(values, dict) else {}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
