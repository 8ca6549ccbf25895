"""Figure 6: the features of encoder and projector in a plane, ID alone and with the OOD sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ood_nc.report.documents import Row, Run
from ood_nc.report.figures.figure import HUES, Figure, Panel, Series

VIEWS = {"id": "ID alone", "all": "ID and OOD"}


def maps(runs: Sequence[Run]) -> Figure:
    """A panel a run, tap and view, each with a plane of its own."""
    panels = []
    for run in runs:
        places = dict.fromkeys((row["tap"], row["view"]) for row in run.maps)
        for tap, view in places:
            rows = [row for row in run.maps if (row["tap"], row["view"]) == (tap, view)]
            shares = rows[0]["explained"]
            first, second = (
                f"component {n + 1} ({100 * shares[n]:.0f} %)" if shares else f"UMAP {n + 1}" for n in (0, 1)
            )
            panels.append(Panel(f"{run.name}: {tap}, {VIEWS[view]}", first, second, _series(rows, view)))
    missing = None if panels else "no run keeps a map of its features (of an earlier version: evaluate it again)"
    return Figure("maps", "The features in a plane", panels, columns=2, missing=missing)


def _series(rows: Sequence[Row], view: str) -> list[Series]:
    if view == "all":
        colors = {row["dataset"]: HUES[n % 7] for n, row in enumerate(rows[1:])}
        return [
            Series(
                "ID" if row["dataset"] == "id_test" else row["dataset"],
                row["x"],
                row["y"],
                labels=row["labels"],
                mark="points",
                color=colors.get(row["dataset"], 6),
                symbol=number % 8,
            )
            for number, row in enumerate(rows)
        ]
    series = []
    for row in rows:
        for number, label in enumerate(sorted(set(row["labels"]), key=int)):
            of = [position for position, own in enumerate(row["labels"]) if own == label]
            x, y = [row["x"][position] for position in of], [row["y"][position] for position in of]
            look: dict[str, Any] = {"color": number % 8, "symbol": number // 8 % 8}
            series.append(Series(f"class {label}", x, y, labels=[label] * len(of), mark="points", **look))
    return series
