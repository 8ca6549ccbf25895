"""A progress bar with items per second and time left; silent where the output is not a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ood_nc.processes import is_main_process


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} {task.fields['unit']}/s")


@contextmanager
def progress(description: str, total: int | None, unit: str = "images") -> Iterator[Callable[..., None]]:
    """Show a bar while the block runs; yields ``advance(n, note="")``. A total of None is one that is not known.

    The bar is off when the output is not a terminal, under ``OOD_NC_QUIET=1`` (set by ``--quiet``), and on every rank
    but the first.
    """
    quiet = os.environ.get("OOD_NC_QUIET") == "1" or not is_main_process() or not sys.stderr.isatty()
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(file=sys.stderr),
        transient=True,
    )
    with nullcontext() if quiet else bar:  # a disabled bar of earlier versions ends in an empty line
        task = bar.add_task(description, total=total, unit=unit, note="")

        def advance(count: int, note: str = "") -> None:
            bar.update(task, advance=count, note=note)

        yield advance
