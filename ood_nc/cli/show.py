"""What a command prints: notes to standard error, results to standard output."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

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
    from rich.console import Console
    from rich.table import Table

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
    from ood_nc.evaluation.overview import ERROR, NC1, by_tap, partial
    from ood_nc.headline import headline

    chosen = headline(results.identity)
    taps, found = by_tap(results.main_rows, results.identity)
    starred = {NC1: None, ERROR: chosen.transfer_tap}
    body = [
        [
            tap,
            *(
                _cell(values.get(tap), tap == starred.get(label, chosen.detection_tap))
                for label, values in found.items()
            ),
        ]
        for tap in taps
    ]
    title = f"{results.identity.get('run', 'run')}: every layer (* the headline, fixed beforehand)"
    table(title, ["tap", *found], body)
    for line in partial(results.main_rows, results.identity):
        say(line)
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


def _cell(value: float | None, starred: bool) -> str:
    return ("-" if value is None else f"{value:.3f}") + (" *" if starred else "")
