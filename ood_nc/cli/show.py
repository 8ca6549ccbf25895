"""What a command prints: notes to standard error, results to standard output."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from ood_nc.evaluation import Results


def say(text: str) -> None:
    """Print a line, unless ``--quiet``."""
    if os.environ.get("OOD_NC_QUIET") != "1":
        print(text, flush=True)


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table that fits the terminal; off a terminal its cells are never cut."""
    if os.environ.get("OOD_NC_QUIET") == "1":
        return
    console = Console()
    if not console.is_terminal:
        console = Console(
            width=max(80, 4 + sum(3 + max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))))
        )
    grid = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        grid.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        grid.add_row(*row)
    console.print(grid)


def show_results(results: Results) -> None:
    """Print collapse, detection and transfer per tap, as means over the sets."""
    rows = results.rows
    taps = sorted({(row["depth"], row["tap"]) for row in rows if row["tap"] and row["depth"] is not None})
    body = []
    for _, tap in taps:
        here = [row for row in rows if row["tap"] == tap]
        body.append(
            [
                tap,
                _mean(here, kind="collapse", metric="nc1_pinv", group="id"),
                _best(here, "auroc", max),
                _best(here, "fpr95_id_positive", min),
                _mean(here, kind="transfer", metric="accuracy", method="linear"),
            ]
        )
    columns = [
        "tap",
        "NC1",
        "mean AUROC (best detector)",
        "mean FPR95, ID positive (best)",
        "transfer accuracy (linear)",
    ]
    table(f"{results.identity.get('run', 'run')}: every layer", columns, body)


def _values(rows: list[dict], **equals: object) -> list[float]:
    return [
        row["value"]
        for row in rows
        if row["value"] is not None and all(row[key] == value for key, value in equals.items())
    ]


def _mean(rows: list[dict], **equals: object) -> str:
    values = _values(rows, **equals)
    return f"{sum(values) / len(values):.3f}" if values else "-"


def _best(rows: list[dict], metric: str, choose: type[max] | type[min]) -> str:  # type: ignore[valid-type]
    means = {}
    for method in {row["method"] for row in rows if row["kind"] == "detection"}:
        values = _values([row for row in rows if row["group"] != "id"], kind="detection", metric=metric, method=method)
        if values:
            means[method] = sum(values) / len(values)
    if not means:
        return "-"
    method = choose(means, key=means.__getitem__)  # type: ignore[operator]
    return f"{means[method]:.3f} {method}"
