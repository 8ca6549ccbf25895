"""A comparison as one table, a row a run or group of seeds, for papers and spreadsheets: CSV, Markdown, LaTeX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ood_nc.report.documents import Row
from ood_nc.report.standings import arranged
from ood_nc.spreadsheets import csv_text

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
_LEGEND = (
    "* best on these test sets; ~ no difference from the best is shown. Intervals: 95 %, over the images and, where "
    "there are several, the seeds."
)
_TEX = {"%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "~": r"$\sim$", "*": r"$^\ast$", "→": r"$\to$"}
_TEX |= {"$": r"\$", "{": r"\{", "}": r"\}", "^": r"\^{}"}


def comparison_table(comparison: Mapping[str, Any], kind: str) -> str:
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
    columns, fronts, rows = arranged(comparison, _cell, "-")
    heads = ["run", "seeds", *(_LABELS[metric].format(method) for metric, method in columns)]
    heads += [f"detection against transfer error, {method}" for method in fronts]
    lines = [[row["name"], str(row["seeds"]), *row["cells"], *row["fronts"]] for row in rows]
    if kind == "markdown":
        rule = ["---"] * len(heads)
        body = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in (heads, rule, *lines)]
        return "\n".join(body) + f"\n\n{_LEGEND}\n"
    body = [" & ".join(_escaped(cell) for cell in row) + r" \\" for row in (heads, *lines)]
    top = [rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}", r"\toprule", body[0], r"\midrule"]
    return "\n".join([*top, *body[1:], r"\bottomrule", r"\end{tabular}", f"% {_LEGEND}"]) + "\n"


def _csv(comparison: Mapping[str, Any]) -> str:
    columns = ("run", "seeds", "metric", "method", "value", "low", "high", "best", "within_noise")
    rows = [[row[name] for name in columns] for row in comparison["standings"]]
    rows += [[row["run"], "", "pareto", row["method"], row["standing"], "", "", "", ""] for row in comparison["pareto"]]
    return csv_text([columns, *(["" if value is None else value for value in row] for row in rows)])


def _cell(row: Row | None, metric: str) -> str:
    if row is None:
        return "-"
    scale, digits = (1, 2) if metric == "temperature" else (100, 1)

    def shown(value: float) -> str:
        return f"{scale * value:.{digits}f}"

    ends = "" if row["low"] is None else f" [{shown(row['low'])}, {shown(row['high'])}]"
    return shown(row["value"]) + ends + (" *" if row["best"] else " ~" if row["within_noise"] else "")


def _escaped(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text.replace("\\", "/"))
