"""The tables of the report, as plain structures for the template; a cell carries its address for the page's script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ood_nc.documents import MEAN
from ood_nc.report.documents import Row, Run
from ood_nc.report.glossary import default_method, metric
from ood_nc.report.numbers import DASH, interval, number
from ood_nc.report.payload import Index

GROUPS = {
    "id": "In distribution",
    "ood": "All OOD",
    "near": "Near OOD",
    "far": "Far OOD",
    "covariate": "Covariate shift",
    "transfer": "Transfer",
}
_OVER_RUNS = ("pearson_within_depth", "pearson_across_runs")

Table = dict[str, Any]


class Lookup:
    """The rows of all runs by address."""

    def __init__(self, runs: Sequence[Run], index: Index) -> None:
        self.runs, self.index = runs, index
        self._rows: dict[tuple[str, str], Row] = {}
        self._sets: dict[tuple[str, str, str], list[Row]] = {}
        for number_of_run, run in enumerate(runs):
            for row in run.rows:
                self._rows[index.key(number_of_run, row), row["tap"]] = row
                self._sets.setdefault((row["kind"], row["dataset"], row["group"]), []).append(row)

    def of(self, kind: str, dataset: str, group: str) -> list[Row]:
        """The rows of a kind about a data set, of all runs."""
        return self._sets.get((kind, dataset, group), [])

    def cell(
        self, run: int, kind: str, dataset: int, method: str, metric_name: str, tap: str, address: str = ""
    ) -> Table:
        """The row at an address, as a cell."""
        number_of_method = 0 if kind == "collapse" else self.index.methods.get(method)
        found = self._rows.get((f"{run} {kind} {dataset} {number_of_method} {metric_name}", tap))
        return cell(found, metric(metric_name).unit, address)


def cell(row: Row | None, unit: str, address: str = "") -> Table:
    """A value as it is shown: text, interval, the number to sort by, and why it is undefined if it is."""
    if row is None:
        return _plain_cell(DASH, title="not measured", address=address, undefined=True)
    undefined = row["value"] is None
    of = row.get("n")
    n = "" if of is None else f"mean of {of} set{'' if of == 1 else 's'}" if row.get("dataset") == MEAN else f"n = {of}"
    return _plain_cell(
        number(row["value"], unit),
        interval="" if undefined else interval(row.get("low"), row.get("high"), unit),
        value="" if undefined else repr(row["value"]),
        title=f"undefined: {row.get('reason') or 'no reason given'}" if undefined else n,
        n="" if of is None else of,
        address=address,
        undefined=undefined,
    )


def _plain_cell(text: str, **parts: Any) -> Table:
    empty = {"interval": "", "value": "", "title": "", "n": "", "address": "", "undefined": False, "detail": ""}
    return {"text": text, **empty, **parts}


def collapse_table(runs: Sequence[Run], lookup: Lookup) -> Table | None:
    """Taps by collapse metric on a split of the ID data, the training split first; what needs OOD data by OOD set."""
    rows = [row for run in runs for row in run.rows if row["kind"] == "collapse"]
    splits = dict.fromkeys(row["dataset"] for row in rows if row["group"] == "id")
    if not splits:
        return None
    first = lookup.index.datasets["id_train" if "id_train" in splits else next(iter(splits)), "id"]
    columns: dict[tuple[str, str], Table] = {}
    for row in rows:
        shown, fixed = metric(row["metric"]), row["group"] != "id"
        number = lookup.index.datasets[row["dataset"], row["group"]] if fixed else first
        label = f"{shown.label}, {row['dataset']}" if fixed else shown.label
        column = {
            "metric": row["metric"],
            "number": number,
            "place": str(number) if fixed else "*split",
            "label": label,
        }
        columns.setdefault((row["metric"], row["dataset"] if fixed else ""), column)
    lines = []
    for tap in lookup.index.taps:
        for number_of_run, run in enumerate(runs):
            if tap not in run.taps:
                continue
            cells = []
            for column in columns.values():
                address = f"{number_of_run} collapse {column['place']} 0 {column['metric']} {lookup.index.taps[tap]}"
                cells.append(
                    lookup.cell(number_of_run, "collapse", column["number"], "", column["metric"], tap, address)
                )
            lines.append({"name": tap, "run": number_of_run, "cells": cells})
    return {"columns": list(columns.values()), "rows": lines, "split": list(lookup.index.datasets)[first][0]}


def relation_table(relations: Sequence[Row], set_number: int, joint: bool) -> Table | None:
    """Correlation of each collapse metric with one detection and one transfer error; the script fills in others."""
    if not relations:
        return None
    kinds = []
    for kind in ("detection", "transfer"):
        options = [row for row in relations if row["kind"] == kind]
        if options:
            errors = list(dict.fromkeys(row["y"] for row in options))
            methods = list(dict.fromkeys(row["method"] for row in options))
            error = "fpr95_id_positive" if "fpr95_id_positive" in errors else errors[0]
            kinds.append(
                {"kind": kind, "errors": errors, "error": error, "methods": methods, "method": default_method(methods)}
            )
    names = ["pearson", "spearman"]
    names += [name for name in _OVER_RUNS if joint and any(row.get(name) is not None for row in relations)]
    by_place = {(row["kind"], row["y"], row["method"], bool(row["normalized"]), row["x"]): row for row in relations}
    lines = []
    for x in dict.fromkeys(row["x"] for row in relations):
        cells = []
        for part in kinds:
            row = by_place.get((part["kind"], part["error"], part["method"], False, x))
            cells += [_correlation(row, name, f"{part['kind']} {name} {x}") for name in names]
            count = row["n"] if row else None
            text, value = (DASH, "") if count is None else (str(count), str(count))
            cells.append(_plain_cell(text, value=value, address=f"{part['kind']} n {x}"))
        lines.append({"name": x, "cells": cells})
    return {"kinds": kinds, "rows": lines, "names": names, "set": set_number}


def why_unrelated(relations: Sequence[Row]) -> str:
    """The reasons where no correlation of a report is defined; empty where one is."""
    if any(row.get("pearson") is not None for row in relations):
        return ""
    return "; ".join(dict.fromkeys(row.get("reason") or "no reason given" for row in relations))


def _correlation(row: Row | None, name: str, address: str) -> Table:
    if row is None:
        return cell(None, "correlation", address)
    ends = {"low": row.get(f"{name}_low"), "high": row.get(f"{name}_high")}
    return cell(
        {"value": row.get(name), **ends, "n": row.get("n"), "reason": row.get("reason")}, "correlation", address
    )
