"""What a figure is, whatever draws it: panels of series, whose numbers are the figure's data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import StatisticsError, correlation, median
from typing import Any, Literal

from ood_nc.report.documents import Row, Run
from ood_nc.report.numbers import interval, signed

Mark = Literal["line", "points", "steps", "bars", "cells"]

COLUMNS = ("panel", "series", "label", "x", "y", "low", "high")
"""The columns of a figure's data; ``label`` names the tap or class of a point."""


@dataclass(frozen=True)
class Series:
    """Points that share a name and a style.

    Attributes:
        name: what the legend calls it.
        x: numbers, or names on an axis of names.
        y: numbers; None leaves a gap.
        low: lower ends of intervals.
        high: upper ends.
        labels: a name a point.
        mark: how it is drawn. ``steps`` has the edges of bins as x, so one y more than counts: 0. A panel of ``cells``
            is a heat map: each series is one row of it, named at its axis, and y is the shade.
        color: of eight.
        symbol: of eight.
    """

    name: str
    x: Sequence[Any]
    y: Sequence[float | None]
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None
    labels: Sequence[str] | None = None
    mark: Mark = "line"
    color: int = 1
    symbol: int = 0

    @property
    def reach(self) -> tuple[list[float], list[float]] | None:
        """How far the intervals go below and above their points, if there are any.

        The value itself can lie outside of a percentile interval of few images, which then reaches to one side alone.
        """
        if self.low is None or self.high is None:
            return None
        ends = list(zip(self.low, self.y, self.high, strict=True))
        return [max(y - low, 0.0) for low, y, _ in ends], [max(high - y, 0.0) for _, y, high in ends]  # type: ignore[operator]


@dataclass(frozen=True)
class Panel:
    """One pair of axes; the note, on what its points say together, stands below its title."""

    title: str
    x: str
    y: str
    series: Sequence[Series]
    log_x: bool = False
    note: str = ""

    @property
    def log_y(self) -> bool:
        """Whether one point would flatten the rest: all positive, no percentages, the largest 20 times the median."""
        marks = {one.mark for one in self.series}
        values = [value for one in self.series for value in one.y if value is not None]
        if not values or not marks <= {"line", "points"} or self.y.endswith("%") or min(values) <= 0:
            return False
        return max(values) > FLATTENED * median(values)

    @property
    def is_map(self) -> bool:
        """Whether it is a heat map."""
        return bool(self.series) and self.series[0].mark == "cells"


@dataclass(frozen=True)
class Figure:
    """Panels in rows of ``columns``, under one title.

    Attributes:
        name: of its files.
        title: a sentence.
        panels: empty where the runs cannot show it.
        columns: panels a row.
        missing: why there is no panel, in one line.
    """

    name: str
    title: str
    panels: Sequence[Panel] = field(default_factory=tuple)
    columns: int = 3
    missing: str | None = None

    def rows(self) -> Iterator[dict[str, Any]]:
        """The plotted numbers, a row a point, by `COLUMNS`."""
        for panel in self.panels:
            for one in panel.series:
                for position, (x, y) in enumerate(zip(one.x, one.y, strict=True)):
                    label, low, high = (
                        None if part is None else part[position] for part in (one.labels, one.low, one.high)
                    )
                    values = (panel.title, one.name, label, x, y, low, high)
                    yield dict(zip(COLUMNS, values, strict=True))


FLATTENED = 20

HUES = (1, 0, 2, 3, 4, 5, 7)
"""The order in which colours are given out; 6 is grey, for ID."""


def style(runs: Sequence[Run], run: Run, variant: int) -> dict[str, Any]:
    """Colour by group of seeds and symbol by variant where there are several runs; both by variant for one."""
    if len(runs) == 1:
        return {"color": HUES[variant % 7], "symbol": variant % 8}
    # Where the colours begin again, the symbols do so one further.
    place = list(dict.fromkeys(other.group for other in runs)).index(run.group)
    return {"color": place % 8, "symbol": (variant + place // 8) % 8}


def named(runs: Sequence[Run], run: Run, label: str = "") -> str:
    """A series' name: the variant's, after the run's where there are several runs."""
    return label or run.name if len(runs) == 1 else ", ".join(part for part in (run.name, label) if part)


def by_tap(run: Run, **wanted: Any) -> dict[str, Row]:
    """The defined rows that agree with ``wanted``, by tap, in depth order."""
    rows = {
        row["tap"]: row
        for row in run.rows
        if row["value"] is not None and all(row[key] == value for key, value in wanted.items())
    }
    return {tap: rows[tap] for tap in run.taps if tap in rows}


def correlated(x: Sequence[float], y: Sequence[float], low: float | None = None, high: float | None = None) -> str:
    """Pearson's R of the points, with its interval where one is known, and their number."""
    try:
        told = f"R = {signed(correlation(x, y))} {interval(low, high, 'correlation')}".rstrip()
    except StatisticsError:
        return f"R undefined, n = {len(x)}"
    return f"{told}, n = {len(x)}"
