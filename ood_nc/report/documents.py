"""Reading what a run left behind: results.json, and beside it metrics.jsonl, config.yaml and environment.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ood_nc.documents import distinct_name, group_of, one_protocol, read_results
from ood_nc.errors import UserError
from ood_nc.files import expanded
from ood_nc.tracking import read_log

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
        maps: features in a plane.
        roc: ROC curves.
        gallery: images that the detector is surest of.
        log: lines of metrics.jsonl; empty for a model that this project did not train.
        config: config.yaml as text.
        environment: environment.json.
        audit: audit.json, what was found in the data.
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
    maps: Sequence[Row]
    roc: Sequence[Row]
    gallery: Mapping[str, Any]
    log: Sequence[Row]
    config: str | None
    environment: Mapping[str, Any] | None
    audit: Mapping[str, Any] | None = None

    @property
    def taps(self) -> list[str]:
        """Names of the taps in depth order."""
        return [tap["name"] for tap in sorted(self.identity["taps"], key=lambda tap: tap["depth"])]

    @property
    def head_tap(self) -> str:
        """The tap that the head reads: stated, or the deepest."""
        return str(self.identity.get("head_tap") or self.taps[-1])


def read_runs(directories: Sequence[str | Path], *, protocol: str | None = None) -> list[Run]:
    """Read several runs; equal names are numbered, as in the comparison document.

    Args:
        directories: the runs.
        protocol: whose measurements; strict (else the first that there is) when not given.

    Raises:
        UserError: a run has no readable results, or none of the protocol.
    """
    runs: list[Run] = []
    for directory in directories:
        run, document = _read_run(expanded(directory), [run.name for run in runs])
        runs.append(run if protocol in (None, _protocol(run.rows)) else _of_protocol(run, document, str(protocol)))
    return runs


def _protocol(rows: Sequence[Row]) -> str | None:
    return next((row["protocol"] for row in rows), None)


def _series(document: Mapping[str, Any], protocol: str | None, unsaid: str | None) -> dict[str, Any]:
    """The histograms and maps of a protocol; ``unsaid`` is that of those that name none."""
    series = document["series"]
    kept = {name: series.get(name) or [] for name in ("histograms", "maps")}
    return {name: [row for row in rows if row.get("protocol", unsaid) == protocol] for name, rows in kept.items()}


def _of_protocol(run: Run, document: Mapping[str, Any], protocol: str) -> Run:
    """What another protocol measured, at taps of its own; relations, choices and the log are of the run's own taps."""
    rows = [row for row in document["rows"] if row["protocol"] == protocol]
    if not rows:
        # What is evaluated anew takes the place of all that there is.
        wanted = dict.fromkeys(["strict", *(row["protocol"] for row in document["rows"]), protocol])
        raise UserError(
            f"{run.directory} has nothing of the protocol {protocol}: ood-nc evaluate {run.directory} "
            f"--protocols {' '.join(wanted)}"
        )
    depths = {row["tap"]: row["depth"] for row in rows if row["depth"] is not None}
    taps = [{"name": tap, "depth": depth} for tap, depth in depths.items()]
    by_kind = {
        kind: list(dict.fromkeys(row["method"] for row in rows if row["kind"] == kind and row["method"]))
        for kind in ("detection", "transfer")
    }
    own = {"head_tap": None, "detectors": by_kind["detection"], "probes": by_kind["transfer"]}
    parts = _series(document, protocol, _protocol(run.rows))
    others = [name for name in (_protocol(run.rows), *run.other_protocols) if name and name != protocol]
    empty: dict[str, Any] = {"relations": [], "choices": [], "gallery": {}, "roc": [], "log": []}
    identity = {**run.identity, "taps": taps, **own}
    return replace(run, identity=identity, rows=rows, other_protocols=others, **parts, **empty)


def _read_run(directory: Path, taken: Sequence[str]) -> tuple[Run, Mapping[str, Any]]:
    document = read_results(directory)
    if not document["identity"].get("taps"):
        raise UserError(f"The results in {directory} name no taps: evaluate the run again.")
    name = distinct_name(str(document["identity"].get("run") or directory.name), taken)
    rows, other_protocols = one_protocol(document["rows"])
    log, environment, audit = (directory / name for name in ("metrics.jsonl", "environment.json", "audit.json"))
    run = Run(
        name=name,
        group=group_of(name),
        directory=directory,
        identity=document["identity"],
        rows=rows,
        other_protocols=other_protocols,
        relations=document["relations"],
        choices=document["choices"],
        **_series(document, _protocol(rows), _protocol(rows)),
        roc=document["series"].get("roc") or [],
        gallery=document["series"].get("gallery") or {},
        log=read_log(log) if log.is_file() else [],
        config=_read_text(directory / "config.yaml"),
        environment=_read_json(environment) if environment.is_file() else None,
        audit=_read_json(audit) if audit.is_file() else None,
    )
    return run, document


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
