"""The standings of a comparison: a row a run or group of seeds, a column a number of the headline, the Pareto front."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ood_nc.report.documents import Row
from ood_nc.report.glossary import metric
from ood_nc.report.numbers import DASH
from ood_nc.report.tables import Table, cell

MEASURES = {
    "accuracy": " on ID",
    "fpr95_id_positive": ", {}",
    "auroc": ", {}",
    "transfer_error": ", {}",
    "ece": "",
    "temperature": "",
    "ece_at_temperature": "",
}
"""In the order of the columns, with what follows the metric's label."""

Column = tuple[str, str]
"""A metric and its method."""


def standing_table(comparison: Mapping[str, Any] | None) -> Table | None:
    """None where there is no comparison, or one of an earlier version, which has none."""
    if not (comparison or {}).get("standings"):
        return None
    columns, methods, rows = arranged(comparison or {}, lambda row, name: _cell(row, metric(name).unit), DASH)
    return {
        "columns": [metric(name).axis(MEASURES[name].format(method)) for name, method in columns],
        "fronts": [f"Detection ({method}) against transfer error" for method in methods],
        "rows": rows,
    }


def arranged(
    comparison: Mapping[str, Any], show: Callable[[Row | None, str], Any], dash: str
) -> tuple[list[Column], list[str], list[Table]]:
    """The standings as a table.

    Args:
        comparison: the document.
        show: makes a cell of a row of the standings (None where a run has no such number), given its metric.
        dash: stands where a run is on no front.

    Returns:
        The columns; the detectors of the Pareto fronts; of each run ``name``, ``seeds``, ``cells`` and ``fronts``.
    """
    found = {(row["run"], row["metric"], row["method"]): row for row in comparison["standings"]}
    columns = sorted(dict.fromkeys(key[1:] for key in found), key=lambda column: list(MEASURES).index(column[0]))
    methods = list(dict.fromkeys(row["method"] for row in comparison.get("pareto") or ()))
    standing = {(row["run"], row["method"]): row["standing"] for row in comparison.get("pareto") or ()}
    rows = []
    for run, seeds in {row["run"]: row["seeds"] for row in found.values()}.items():
        cells = [show(found.get((run, *column)), column[0]) for column in columns]
        fronts = [standing.get((run, method), dash) for method in methods]
        rows.append({"name": run, "seeds": seeds, "cells": cells, "fronts": fronts})
    return columns, methods, rows


def _cell(row: Mapping[str, Any] | None, unit: str) -> Table:
    if row is None:
        return {**cell(None, unit), "best": False}
    shown = cell({**row, "n": None}, unit)
    mark = "≈ " if row["within_noise"] and not row["best"] else ""
    return {**shown, "text": mark + shown["text"], "best": row["best"]}
