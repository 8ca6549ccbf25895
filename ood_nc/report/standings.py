"""The standings of a comparison: a row a run or group of seeds, a column a number of the headline, the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ood_nc.report.glossary import metric
from ood_nc.report.numbers import DASH
from ood_nc.report.tables import Table, cell


def standing_table(comparison: Mapping[str, Any] | None) -> Table | None:
    """None where there is no comparison, or one of an earlier version, which has none."""
    rows, front = ((comparison or {}).get(name) or [] for name in ("standings", "pareto"))
    if not rows:
        return None
    found = {(row["run"], row["metric"], row["method"]): row for row in rows}
    columns = sorted(dict.fromkeys(key[1:] for key in found), key=lambda column: list(_MEASURES).index(column[0]))
    methods = list(dict.fromkeys(row["method"] for row in front))
    standing = {(row["run"], row["method"]): row["standing"] for row in front}
    lines = []
    for run in dict.fromkeys(row["run"] for row in rows):
        cells = [_cell(found.get((run, *column)), metric(column[0]).unit) for column in columns]
        fronts = [standing.get((run, method), DASH) for method in methods]
        seeds = next(row["seeds"] for row in rows if row["run"] == run)
        lines.append({"name": run, "seeds": seeds, "cells": cells, "fronts": fronts})
    labels = [metric(name).label + _MEASURES[name].format(method) + _unit(name) for name, method in columns]
    return {
        "columns": labels,
        "fronts": [f"Detection ({method}) against transfer error" for method in methods],
        "rows": lines,
    }


_MEASURES = {
    "accuracy": " on ID",
    "fpr95_id_positive": ", {}",
    "auroc": ", {}",
    "transfer_error": "",
    "ece": "",
    "temperature": "",
    "ece_at_temperature": "",
}
"""In the order of the columns, with what follows the metric's label."""


def _unit(name: str) -> str:
    return ", %" if metric(name).unit == "percent" else ""


def _cell(row: Mapping[str, Any] | None, unit: str) -> Table:
    if row is None:
        return {**cell(None, unit), "best": False}
    shown = cell({**row, "n": None}, unit)
    mark = "≈ " if row["within_noise"] and not row["best"] else ""
    return {**shown, "text": mark + shown["text"], "best": row["best"]}
