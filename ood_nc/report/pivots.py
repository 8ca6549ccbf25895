"""Tables with a method a row and a data set a column, which the page's script fills in for other taps and metrics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ood_nc.documents import MEAN
from ood_nc.report.documents import Run
from ood_nc.report.glossary import metric
from ood_nc.report.summary import notes_on
from ood_nc.report.tables import GROUPS, Lookup, Table, cell

PAIRS = (("auroc", "fpr95_id_positive"), ("fpr95_id_positive", "fpr95_ood_positive"), ("aupr_in", "aupr_out"))
COSTS = ("seconds", "memory")


def detector_table(runs: Sequence[Run], lookup: Lookup) -> Table | None:
    """Detectors by OOD set, each with its run time, on the tap the head reads."""
    found = {row["metric"] for run in runs for row in run.rows if row["kind"] == "detection"} - set(COSTS)
    if not found:
        return None
    pairs = [[name for name in pair if name in found] for pair in PAIRS]
    others = sorted(found - {name for pair in PAIRS for name in pair})
    pairs += [others[start : start + 2] for start in range(0, len(others), 2)]
    pairs = [pair for pair in pairs if pair]
    columns = [
        *(
            column
            for group in ("ood", "near", "far", "covariate")
            for column in _columns(runs, lookup, "detection", group)
        ),
        *_columns(runs, lookup, "detection", "id", timed=True),
    ]
    return _pivot(runs, lookup, "detection", columns, pairs[0]) | {"pairs": pairs}


def transfer_table(runs: Sequence[Run], lookup: Lookup) -> Table | None:
    """Probes by transfer set, with the same probe's accuracy on ID and the run times beside it."""
    found = dict.fromkeys(row["metric"] for run in runs for row in run.rows if row["kind"] == "transfer")
    if not found:
        return None
    columns = [
        *_columns(runs, lookup, "accuracy", "id"),
        *_columns(runs, lookup, "transfer", "transfer"),
        *_columns(runs, lookup, "transfer", "transfer", timed=True),
    ]
    return _pivot(runs, lookup, "transfer", columns, ["accuracy" if "accuracy" in found else next(iter(found))])


def tunnel_table(runs: Sequence[Run]) -> list[Table]:
    """The tunnel effect of each transfer set: what the last tap retains, and how its curve follows the ID curve."""
    lines: dict[tuple[int, str], Table] = {}
    for number, run in enumerate(runs):
        for row in run.rows:
            if row["kind"] == "transfer" and row["metric"] in ("retained", "id_correlation"):
                line = lines.setdefault(
                    (number, row["dataset"]), {"run": number, "name": row["dataset"], "method": row["method"]}
                )
                line[row["metric"]] = cell(row, metric(row["metric"]).unit)
    return [line for line in lines.values() if "retained" in line and "id_correlation" in line]


def id_size(run: Run) -> int | None:
    """How many held-out ID images there are."""
    known = (run.identity.get("datasets") or {}).get("id_test") or {}
    counts = [row["n"] for row in run.rows if row["kind"] == "accuracy" and row["n"] is not None]
    size = known.get("n") or max(counts, default=None)
    return int(size) if size else None


def span(sizes: Iterable[int | None]) -> str:
    """What runs have as many of, from the fewest to the most where they differ; empty where none is known."""
    known = [size for size in sizes if size is not None]
    return "" if not known else " to ".join(str(size) for size in dict.fromkeys((min(known), max(known))))


def _columns(runs: Sequence[Run], lookup: Lookup, kind: str, group: str, *, timed: bool = False) -> list[Table]:
    """The data sets of a group, its mean first, each with its n and the share of OOD among ID and OOD."""
    columns = []
    for number, (dataset, member) in enumerate(lookup.index.datasets):
        if member != group or (timed and dataset == MEAN):
            continue
        rows = [row for row in lookup.of(kind, dataset, group) if (row["metric"] in COSTS) == timed]
        if not rows:
            continue
        by_run: dict[str, int] = {}
        for row in rows:
            if row["n"] is not None:
                by_run[row["run"]] = max(by_run.get(row["run"], 0), row["n"])
        size = span(row["n"] for row in rows) if dataset == MEAN else span(by_run.values())
        ids = span(map(id_size, runs)) if kind == "detection" and group != "id" and dataset != MEAN else ""
        column = {"number": number, "kind": kind, "timed": timed, "mean": dataset == MEAN, "name": dataset}
        column["group"] = "Cost" if timed else GROUPS.get(group, group)
        column["detail"] = f"n = {size}" if size else ""
        if timed and kind == "detection":
            column |= {"name": "all sets", "detail": f"{size} scores" if size else ""}
        elif dataset == MEAN:
            column |= {
                "name": "mean of sets",
                "detail": f"over {size} set{'' if size == '1' else 's'}" if size else "",
            }
        elif size.isdecimal() and ids.isdecimal():
            column["detail"] += f", base rate {100 * int(size) / (int(size) + int(ids)):.0f} %"
        column["notes"] = [] if timed or dataset == MEAN else notes_on(runs, dataset)
        columns.append(column)
    return sorted(columns, key=lambda column: not column["mean"])


def _pivot(runs: Sequence[Run], lookup: Lookup, kind: str, columns: list[Table], metrics: Sequence[str]) -> Table:
    methods = dict.fromkeys(row["method"] for run in runs for row in run.rows if row["kind"] == kind)
    known = {row["metric"] for run in runs for row in run.rows if row["kind"] == kind}
    groups: dict[str, int] = {}
    leaves: list[tuple[Table, str, str]] = []
    for column in columns:
        slots = (
            [(name, name) for name in COSTS if name in known]
            if column["timed"]
            else [(name, f"*m{slot}") for slot, name in enumerate(metrics)]
        )
        column["width"] = len(slots)
        groups[column["group"]] = groups.get(column["group"], 0) + len(slots)
        leaves += [(column, name, slot) for name, slot in slots]
    lines = []
    for method in methods:
        for number, run in enumerate(runs):
            cells = [_cell(lookup, number, run.head_tap, method, leaf) for leaf in leaves]
            lines.append({"name": method, "run": number, "cells": cells})
    heads = [
        {"metric": name, "slot": slot[2:] if slot.startswith("*") else "", "mean": column["mean"]}
        for column, name, slot in leaves
    ]
    return {"columns": columns, "leaves": heads, "rows": lines, "groups": groups, "pairs": []}


def _cell(lookup: Lookup, run: int, tap: str, method: str, leaf: tuple[Table, str, str]) -> dict[str, Any]:
    column, name, slot = leaf
    address = f"{run} {column['kind']} {column['number']} {lookup.index.methods[method]} {slot} *tap"
    return {**lookup.cell(run, column["kind"], column["number"], method, name, tap, address), "mean": column["mean"]}
