"""What was run, in facts: identity, settings, data sets, what is undefined, and notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from statistics import median
from typing import Any

from ood_nc.documents import partial_means
from ood_nc.report.documents import Run, settings
from ood_nc.report.numbers import seconds
from ood_nc.report.tables import GROUPS, Table

LISTED = 12
"""So many names of a list are told."""

_SPLITS = {"id_train": "ID train", "id_test": "ID test"}


def run_time(run: Run) -> str:
    """How long the run took, as far as its documents say."""
    spent = {
        name: value for name, value in (run.identity.get("seconds") or {}).items() if isinstance(value, (int, float))
    }
    if not spent:
        return ""
    total = spent["total"] if "total" in spent else sum(value for name, value in spent.items() if name != "train")
    training = f"trained in {seconds(spent['train'])}, " if "train" in spent else ""
    return f"{training}evaluated in {seconds(total)}"


def facts(runs: Sequence[Run]) -> dict[str, list[Table]]:
    """What was run, a line a fact and in it a cell a run: what is ``shared`` by all runs, and what is ``differing``."""
    whole, short = ([_facts(run, most, brief=len(runs) > 1) for run in runs] for most in (None, LISTED))
    found: dict[str, list[Table]] = {"shared": [], "differing": []}
    for name in dict.fromkeys(name for column in whole for name in column if column[name]):
        # Lists that differ only behind their first names differ too, and are told in full.
        differs = len({column.get(name, "") for column in whole}) > 1
        cells = [column.get(name, "") for column in (whole if differs else short)]
        found["differing" if differs else "shared"].append({"name": name, "cells": cells})
    return found


def _facts(run: Run, most: int | None, *, brief: bool) -> dict[str, str]:
    identity, environment = run.identity, run.environment or {}
    taps = [
        f"{' = '.join([tap['name'], *tap.get('aliases', ())])} "
        f"({tap.get('pooling') or 'pooling not stated'}, {tap.get('dim', '?')})"
        for tap in identity["taps"]
    ]
    git = environment.get("git") or {}
    speeds = [line["images_per_second"] for line in run.log if isinstance(line.get("images_per_second"), (int, float))]
    versions = identity.get("versions") or environment.get("versions") or {}
    spent = identity.get("seconds") or {}
    if brief and "total" in spent:
        spent = {"total": spent["total"]}
    values = {
        "Model": identity.get("model"),
        "Classes": _classes(identity, most),
        "Taps (pooling, width)": _listed(taps, most),
        "Head reads": run.head_tap,
        "Seed": identity.get("seed", environment.get("seed")),
        "Protocol": identity.get("protocol") or next((row["protocol"] for row in run.rows), None),
        "Detectors": _listed(identity.get("detectors"), most),
        "Probes": _listed(identity.get("probes"), most),
        "Evaluated": _moment(identity.get("created")),
        "Training began": _moment(environment.get("time")),
        "Training speed": f"{median(speeds):.0f} images/s (median)" if speeds else None,
        "Evaluation time": ", ".join(
            f"{name} {seconds(value)}" for name, value in spent.items() if isinstance(value, (int, float))
        ),
        "Device": environment.get("device") or identity.get("device"),
        "Versions": ", ".join(f"{name} {value}" for name, value in versions.items()),
        "Code": f"{git['commit'][:12]}{', with changes' if git.get('changed') else ''}" if git.get("commit") else None,
        "Weights (SHA-256)": (identity.get("weights_hash") or "")[:16],
    }
    return {name: "" if value is None else str(value) for name, value in values.items()}


def _moment(stamp: Any) -> str | None:
    """An ISO time as a reader writes it; what is none stays as it is."""
    try:
        return datetime.fromisoformat(str(stamp)).astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        return None if stamp is None else str(stamp)


def _classes(identity: Mapping[str, Any], most: int | None) -> str:
    classes, names = identity.get("classes"), identity.get("class_names")
    if isinstance(classes, int):
        return f"{classes}: {_listed(names, most)}" if names else str(classes)
    return _listed(classes, most)


def _listed(names: Any, most: int | None = LISTED) -> str:
    names = [str(name) for name in names or ()]
    more = f", … ({len(names)} in all)" if most is not None and len(names) > most else ""
    return ", ".join(names[:most]) + more


def differing_settings(runs: Sequence[Run]) -> list[Table]:
    """The keys of the configurations in which the runs differ, names and places of the runs apart."""
    columns = [settings(run) for run in runs]
    if len(columns) < 2 or not all(columns):
        return []
    keys = dict.fromkeys(key for column in columns for key in column if key not in ("output", "experiment"))
    lines = [{"name": key, "cells": [str(column.get(key, "not set")) for column in columns]} for key in keys]
    return [line for line in lines if len(set(line["cells"])) > 1]


def datasets(runs: Sequence[Run]) -> list[Table]:
    """The data sets with what is to be known about them; one that several runs share is listed once."""
    found: dict[tuple[str, str], Table] = {}
    for run in runs:
        for name, entry in (run.identity.get("datasets") or {}).items():
            line = found.setdefault(
                (name, str(entry)),
                {"name": name, "runs": [], "fingerprint": None, **entry, "notes": _data_notes(entry)},
            )
            line["group"] = GROUPS.get(entry.get("group"), entry.get("group"))
            line["runs"].append(run.name)
    return list(found.values())


def _data_notes(entry: Mapping[str, Any]) -> list[str]:
    notes = []
    duplicates = entry.get("duplicates") or 0
    for where, found in duplicates.items() if isinstance(duplicates, Mapping) else [("the ID data", duplicates)]:
        if _count(found):
            notes.append(f"{_count(found)} of {entry.get('n')} files are also in {_SPLITS.get(where, where)}")
    if entry.get("shared_classes"):
        notes.append(f"class names shared with ID: {_listed(entry['shared_classes'])}")
    broken = entry.get("broken") or []
    if _count(broken):
        listed: Any = broken.get("first") if isinstance(broken, Mapping) else broken
        example = f" (first: {': '.join(map(str, listed[0]))})" if isinstance(listed, list) and listed else ""
        notes.append(f"files that could not be read and are left out: {_count(broken)}{example}")
    return notes


def _count(found: Any) -> int:
    """How many: of a number, a list, or a mapping with its count."""
    if isinstance(found, Mapping):
        return int(found.get("count", 0))
    return found if isinstance(found, int) else len(found)


def undefined(runs: Sequence[Run]) -> list[Table]:
    """Why measurements are undefined: each reason once, with what it concerns."""
    found: dict[tuple[str, str], Table] = {}
    columns = {"runs": "run", "metrics": "metric", "sets": "dataset", "methods": "method", "taps": "tap"}
    for run in runs:
        for row in run.rows:
            if row["value"] is None:
                key = (row["kind"], row.get("reason") or "no reason given")
                entry = found.setdefault(key, {"count": 0, **{name: {} for name in columns}})
                entry["count"] += 1
                for name, column in columns.items():
                    value = run.name if name == "runs" else row[column]
                    if value is not None:
                        entry[name][value] = None
    return [
        {
            "kind": kind, "reason": reason, "count": entry["count"],
            "where": "; ".join(f"{name}: {_listed(entry[name], 4)}" for name in columns if entry[name]),
        }
        for (kind, reason), entry in found.items()
    ]  # fmt: skip


def notes_on(runs: Sequence[Run], *subjects: str) -> list[str]:
    """The runs' notes on a data set, a tap or a detector: those that begin with its name and a colon."""
    openings = tuple(f"{subject}: " for subject in subjects)
    found = (str(note) for run in runs for note in run.identity.get("notes") or ())
    return list(dict.fromkeys(note for note in found if note.startswith(openings)))


def warnings(runs: Sequence[Run], comparison: Mapping[str, Any] | None) -> list[str]:
    """Every warning the documents carry, once; one that not all runs carry after the names of those that do."""
    told: dict[str, list[str]] = {}
    for run in runs:
        own = [str(note) for name in ("warnings", "notes") for note in run.identity.get(name) or ()]
        own += partial_means(run.rows)
        own += [f"rows of the protocol {name} are in the results and not shown here" for name in run.other_protocols]
        for note in dict.fromkeys(own):
            told.setdefault(note, []).append(run.name)
    shared = [note if len(names) == len(runs) else f"{', '.join(names)}: {note}" for note, names in told.items()]
    return list(dict.fromkeys([*(str(note) for note in (comparison or {}).get("notes", [])), *shared]))
