"""What a command prints: notes to standard error, results to standard output."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

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
    """Print collapse, detection and transfer of every tap, as means over the sets, by the methods of the headline."""
    from ood_nc.headline import headline

    chosen = headline(results.identity)
    results = replace(results, rows=results.main_rows)
    of_taps = [row for row in results.rows if row["kind"] != "layer" and row["depth"] is not None]
    taps = {row["tap"]: row["depth"] for row in of_taps if row["tap"]}
    body = []
    for tap in sorted(taps, key=lambda tap: int(taps[tap])):
        detection = {"tap": tap, "kind": "detection", "dataset": "mean", "group": "ood", "metric": "fpr95_id_positive"}
        transfer = {"tap": tap, "kind": "transfer", "dataset": "mean", "metric": "accuracy", "method": chosen.probe}
        cells = [_one(results, tap=tap, kind="collapse", dataset="id_train", metric="nc1_pinv")]
        cells += [
            _one(results, **detection, method=name) + (" *" if tap == chosen.detection_tap else "")
            for name in chosen.detectors
        ]
        cells.append(_one(results, as_error=True, **transfer) + (" *" if tap == chosen.transfer_tap else ""))
        body.append([tap, *cells])
    columns = ["tap", "NC1", *(f"mean FPR95 (ID positive), {name}" for name in chosen.detectors), "mean transfer error"]
    table(f"{results.identity.get('run', 'run')}: every layer (* the headline, fixed beforehand)", columns, body)
    show_recommendation(results)


def show_recommendation(results: Results) -> None:
    """One line: the tap and detector chosen without OOD data, what the tests made of it, the command that fits it."""
    chosen = [one for one in results.choices if one["task"] == "detection" and one["recommended"]]
    for one in chosen:
        told = f"recommended without OOD data (rule {one['rule']}): {one['method']} on {one['chosen_tap']}"
        if one["regret"] is not None:
            told += (
                f", mean FPR95 (ID positive) {one['value_chosen']:.3f}; in hindsight the best of all is "
                f"{one['best_method']} on {one['best_tap']}, {one['value_best']:.3f}"
            )
        command = results.identity.get("fit")
        say(f"{told}: {command}" if command else told)


def _one(results: Results, *, as_error: bool = False, **equals: Any) -> str:
    values = [row["value"] for row in results.select(**equals) if row["value"] is not None]
    return f"{1 - values[0] if as_error else values[0]:.3f}" if values else "-"
