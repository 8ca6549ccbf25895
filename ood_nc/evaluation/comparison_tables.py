"""A comparison as one table, a row a run or group of seeds, for papers and spreadsheets: CSV, Markdown, LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from ood_nc.spreadsheets import as_row

FORMATS = {"csv": ".csv", "markdown": ".md", "latex": ".tex"}
"""The endings of the files."""

_LABELS = {
    "accuracy": "ID accuracy, %",
    "fpr95_id_positive": "mean FPR95 (ID positive) by {}, %",
    "auroc": "mean AUROC by {}, %",
    "transfer_error": "mean transfer error by {}, %",
    "ece": "ECE, %",
    "temperature": "temperature",
    "ece_at_temperature": "ECE at that temperature, %",
}
_LEGEND = "* best on these test sets; ~ no difference from the best is shown. Intervals: 95 %, over seeds and images."
_TEX = {"%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "~": r"$\sim$", "*": r"$^\ast$", "→": r"$\to$"}

Row = Mapping[str, Any]


def comparison_table(comparison: Row, kind: str) -> str:
    """The standings of all runs and the Pareto front.

    CSV has every digit, a row a run and number: ``run, seeds, metric, method, value, low, high, best, within_noise``
    as measured, and the Pareto standing as metric ``pareto``. Markdown and LaTeX (booktabs) have a row a run, in
    percent.

    Args:
        comparison: what `compare` returned.
        kind: of `FORMATS`.
    """
    if kind == "csv":
        return _csv(comparison)
    heads, lines = _cells(comparison)
    if kind == "markdown":
        rows = [heads, ["---"] * len(heads), *lines]
        return (
            "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows)
            + f"\n\n{_LEGEND}\n"
        )
    body = [" & ".join(_escaped(cell) for cell in row) + r" \\" for row in (heads, *lines)]
    parts = [
        rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
        r"\toprule",
        body[0],
        r"\midrule",
        *body[1:],
        r"\bottomrule",
    ]
    return "\n".join([*parts, r"\end{tabular}", f"% {_LEGEND}"]) + "\n"


def _csv(comparison: Row) -> str:
    columns = ("run", "seeds", "metric", "method", "value", "low", "high", "best", "within_noise")
    rows = [[row[name] for name in columns] for row in comparison["standings"]]
    rows += [[row["run"], "", "pareto", row["method"], row["standing"], "", "", "", ""] for row in comparison["pareto"]]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(as_row(["" if value is None else value for value in row]) for row in rows)
    return text.getvalue()


def _cells(comparison: Row) -> tuple[list[str], list[list[str]]]:
    """Heads and rows; what no run has is no column."""
    found = {(row["run"], row["metric"], row["method"]): row for row in comparison["standings"]}
    runs = list(dict.fromkeys(run for run, _, _ in found))
    order = list(_LABELS)
    columns = sorted(dict.fromkeys(key[1:] for key in found), key=lambda column: order.index(column[0]))
    fronts = list(dict.fromkeys(row["method"] for row in comparison["pareto"]))
    standing = {(row["run"], row["method"]): row["standing"] for row in comparison["pareto"]}
    heads = ["run", "seeds", *(_LABELS[metric].format(method) for metric, method in columns)]
    heads += [f"detection against transfer error, {method}" for method in fronts]
    lines = []
    for run in runs:
        seeds = next(row["seeds"] for key, row in found.items() if key[0] == run)
        cells = [_cell(found.get((run, *column))) for column in columns]
        lines.append([run, str(seeds), *cells, *(standing.get((run, method), "-") for method in fronts)])
    return heads, lines


def _cell(row: Row | None) -> str:
    if row is None:
        return "-"
    scale, digits = (1, 2) if row["metric"] == "temperature" else (100, 1)

    def shown(value: float) -> str:
        return f"{scale * value:.{digits}f}"

    ends = "" if row["low"] is None else f" [{shown(row['low'])}, {shown(row['high'])}]"
    return shown(row["value"]) + ends + (" *" if row["best"] else " ~" if row["within_noise"] else "")


def _escaped(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text.replace("\\", "/"))
