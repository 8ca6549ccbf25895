"""What was run, in facts and sentences: identity, verdict, headline numbers, notes on the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from statistics import median
from typing import Any

from ood_nc.report.documents import Row, Run, settings
from ood_nc.report.glossary import metric
from ood_nc.report.numbers import interval, number, seconds
from ood_nc.report.tables import GROUPS, cell, default_method

Table = dict[str, Any]

_ALWAYS_DIFFERENT = {"Evaluated", "Training began", "Training speed", "Evaluation time", "Weights (SHA-256)"}
_SPLITS = {"id_train": "ID train", "id_test": "ID test"}


def sentences(run: Run) -> list[str]:
    """The verdict on one run: for each task the best tap with its interval, and what collapse would have chosen."""
    told = []
    for task, opening in (("detection", "OOD detection works best on"), ("transfer", "Transfer works best from")):
        choices = [choice for choice in run.choices if choice["task"] == task and choice["value_best"] is not None]
        if choices:
            lower = metric(choices[0]["metric"]).better == "lower"
            best = min(choices, key=lambda choice: choice["value_best"] * (1 if lower else -1))
            told.append(f"{opening} {_best(run, best)}")
    return told


def _best(run: Run, choice: Row) -> str:
    shown = metric(choice["metric"])
    unit, points = (" %", " points") if shown.unit == "percent" else ("", "")
    label = shown.label if shown.label[:2].isupper() else shown.label.lower()
    value = f"{number(choice['value_best'], shown.unit)}{unit} {_evidence(run, choice)}"
    text = f"{choice['best_tap']} with {choice['method']}: mean {label} {value}"
    if choice["regret"] is None:
        return f"{text}; collapse alone chooses no tap that can be compared ({choice.get('reason') or 'undefined'})."
    if choice["chosen_tap"] == choice["best_tap"]:
        return f"{text}. Collapse alone would have chosen the same tap."
    return (
        f"{text}. Collapse alone would have chosen {choice['chosen_tap']} "
        f"at {number(choice['value_chosen'], shown.unit)}{unit}, "
        f"a regret of {number(choice['regret'], shown.unit)}{points}."
    )


def _evidence(run: Run, choice: Row) -> str:
    """The interval of the very number that was chosen; where that has none, the sets behind it with theirs."""
    wanted = {"kind": choice["task"], "tap": choice["best_tap"]}
    wanted |= {name: choice[name] for name in ("method", "metric")}
    rows = [row for row in run.rows if wanted.items() <= row.items() and row["value"] is not None]
    unit = metric(choice["metric"]).unit
    for row in rows:
        ends = interval(row["low"], row["high"], unit)
        if ends and abs(row["value"] - choice["value_best"]) <= 1e-9:
            return ends
    sets = [row for row in rows if row["dataset"] != "mean" and row["low"] is not None]
    if not sets or len(sets) > 4:
        return "(no interval)"
    told = (f"{row['dataset']} {number(row['value'], unit)} {interval(row['low'], row['high'], unit)}" for row in sets)
    return f"({', '.join(told)})"


def id_accuracy(run: Run) -> Row | None:
    """The row of the head's ID accuracy; where that is undefined, of the probe on the tap that the head reads."""
    rows = [
        row for row in run.rows if row["kind"] == "accuracy" and row["metric"] == "accuracy" and row["group"] == "id"
    ]
    heads = [row for row in rows if row["method"] == "head"]
    lasts = [row for row in rows if row["tap"] == run.head_tap]
    candidates = [*heads, *lasts]
    return next((row for row in candidates if row["value"] is not None), next(iter(candidates), None))


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


def headlines(runs: Sequence[Run], comparison: Mapping[str, Any] | None) -> list[Table]:
    """The few numbers a reader looks for first, a row each, a cell a run, and their difference where there is one."""
    accuracies = [cell(id_accuracy(run), "percent") for run in runs]
    lines: list[Table] = [{"name": "ID accuracy", "cells": accuracies, "kind": "accuracy", "metric": "accuracy"}]
    for kind, metric_name, name, group in (
        ("detection", "fpr95_id_positive", "Mean FPR95 (ID positive)", "ood"),
        ("detection", "auroc", "Mean AUROC", "ood"),
        ("transfer", "accuracy", "Mean transfer accuracy", "transfer"),
    ):
        cells = []
        for run in runs:
            row = _headline(run, comparison, kind, metric_name, group)
            detail = f"{row['tap']}, {row['method']}" if row else ""
            cells.append({**cell(row, "percent"), "detail": detail})
        if not all(found["undefined"] for found in cells):
            lines.append({"name": name, "cells": cells, "kind": kind, "metric": metric_name})
    for line in lines:
        line["difference"] = _headline_difference(line, comparison)
    return lines


def _headline(run: Run, comparison: Mapping[str, Any] | None, kind: str, metric_name: str, group: str) -> Row | None:
    """The mean at the tap and by the method fixed before any OOD or transfer data is read."""
    stated: Mapping[str, Any] = next(
        (entry for entry in (comparison or {}).get("headline") or [] if entry["run"] == run.name), {}
    )
    if kind == "detection":
        tap, method = stated.get("detection_tap", run.head_tap), stated.get("detector")
    else:
        tap, method = (
            stated.get("transfer_tap", "encoder" if "encoder" in run.taps else run.head_tap),
            stated.get("probe"),
        )
    wanted = {"kind": kind, "metric": metric_name, "tap": tap, "group": group, "dataset": "mean"}
    rows = {row["method"]: row for row in run.rows if wanted.items() <= row.items()}
    return rows.get(method or default_method(rows)) if rows else None


def _headline_difference(line: Table, comparison: Mapping[str, Any] | None) -> Table | None:
    entries = [entry for entry in (comparison or {}).get("differences", []) if entry.get("headline")]
    if len({(entry["a"], entry["b"]) for entry in entries}) != 1:
        return None
    wanted = {"accuracy": ("accuracy",), "transfer": ("transfer_error",)}.get(line["kind"], (line.get("metric"),))
    for entry in entries:
        overall = line["kind"] == "accuracy" or (entry["dataset"] == "mean" and entry["group"] in ("ood", "transfer"))
        if entry["kind"] == line["kind"] and entry["metric"] in wanted and overall:
            return dict(entry)
    return None


def facts(runs: Sequence[Run]) -> list[Table]:
    """What was run: a row a fact, a cell a run; rows in which the runs differ are marked."""
    columns = [_facts(run) for run in runs]
    names = dict.fromkeys(name for column in columns for name in column)
    lines = [{"name": name, "cells": [column.get(name, "") for column in columns]} for name in names]
    return [
        {**line, "differs": len(set(line["cells"])) > 1 and line["name"] not in _ALWAYS_DIFFERENT}
        for line in lines
        if any(line["cells"])
    ]


def _facts(run: Run) -> dict[str, str]:
    identity, environment = run.identity, run.environment or {}
    taps = [
        f"{tap['name']} ({tap.get('pooling') or 'pooling not stated'}, {tap.get('dim', '?')})"
        for tap in identity["taps"]
    ]
    git = environment.get("git") or {}
    speeds = [line["images_per_second"] for line in run.log if isinstance(line.get("images_per_second"), (int, float))]
    versions = identity.get("versions") or environment.get("versions") or {}
    spent = identity.get("seconds") or {}
    values = {
        "Model": identity.get("model"),
        "Classes": _classes(identity),
        "Taps (pooling, width)": _listed(taps),
        "Head reads": run.head_tap,
        "Seed": identity.get("seed", environment.get("seed")),
        "Protocol": identity.get("protocol") or next((row["protocol"] for row in run.rows), None),
        "Detectors": _listed(identity.get("detectors")),
        "Probes": _listed(identity.get("probes")),
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


def _classes(identity: Mapping[str, Any]) -> str:
    classes, names = identity.get("classes"), identity.get("class_names")
    if isinstance(classes, int):
        return f"{classes}: {_listed(names)}" if names else str(classes)
    return _listed(classes)


def _listed(names: Any, most: int = 12) -> str:
    names = [str(name) for name in names or ()]
    more = f", … ({len(names)} in all)" if len(names) > most else ""
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
                (name, str(entry)), {"name": name, "runs": [], **entry, "notes": _data_notes(entry)}
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


def warnings(runs: Sequence[Run], comparison: Mapping[str, Any] | None) -> list[str]:
    """Every warning the documents carry, once."""
    told = [str(note) for note in (comparison or {}).get("notes", [])]
    for run in runs:
        prefix = f"{run.name}: " if len(runs) > 1 else ""
        for name in ("warnings", "notes"):
            told += [f"{prefix}{note}" for note in run.identity.get(name) or ()]
        told += [
            f"{prefix}rows of the protocol {name} are in the results and not shown here" for name in run.other_protocols
        ]
    return list(dict.fromkeys(told))
