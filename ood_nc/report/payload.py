"""The data the page's script draws from: compact, by index, without anything a figure does not show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ood_nc.report.documents import Row, Run
from ood_nc.report.glossary import default_method, metric
from ood_nc.report.numbers import compact

LOG_POINTS = 600
"""The most points a training curve is drawn with."""

_CORRELATIONS = ("pearson", "pearson_low", "pearson_high", "spearman", "spearman_low", "spearman_high")
_ACROSS = ("pearson_within_depth", "pearson_across_runs")


class Names:
    """Numbers names in the order they are first seen."""

    def __init__(self) -> None:
        self._known: dict[Any, int] = {}

    def __getitem__(self, name: Any) -> int:
        return self._known.setdefault(name, len(self._known))

    def __iter__(self) -> Iterator[Any]:
        return iter(self._known)

    def get(self, name: Any) -> int | None:
        """The number of a name, or None if it was never seen."""
        return self._known.get(name)


class Index:
    """Taps, data sets and methods of all runs by number; the same numbers in the page and its data."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.taps, self.datasets, self.methods, self.reasons = Names(), Names(), Names(), Names()
        for tap in merged_taps(runs):
            self.taps[tap]
        for run in runs:
            for row in run.rows:
                self.datasets[row["dataset"], row["group"]]
                self.methods[row["method"]]

    def key(self, run: int, row: Row) -> str:
        """The address of the series that a row belongs to."""
        # Where W and b come from differs by tap in the collapse rows: it is no second series.
        method = 0 if row["kind"] == "collapse" else self.methods[row["method"]]
        return f"{run} {row['kind']} {self.datasets[row['dataset'], row['group']]} {method} {row['metric']}"


def merged_taps(runs: Sequence[Run]) -> list[str]:
    """The taps of all runs in one depth order, each inserted after the one it follows in its own run."""
    order: list[str] = []
    for run in runs:
        position = 0
        for tap in run.taps:
            if tap in order:
                position = order.index(tap) + 1
            else:
                order.insert(position, tap)
                position += 1
    return order


def build_payload(runs: Sequence[Run], index: Index, joint_relations: Sequence[Row] = ()) -> dict[str, Any]:
    """Everything the script needs, ready for JSON."""
    groups = list(dict.fromkeys(run.group for run in runs))
    colors = [groups.index(run.group) if len(runs) > 1 else 1 for run in runs]
    relations: list[Sequence[Row]] = [*(run.relations for run in runs), joint_relations]
    detectors = list(dict.fromkeys(row["method"] for run in runs for row in run.rows if row["kind"] == "detection"))
    payload = {
        "runs": [
            {
                "name": run.name,
                "color": color,
                "symbol": symbol,
                "head": index.taps[run.head_tap],
                "train": _training(run),
            }
            for run, color, symbol in zip(runs, colors, _symbols(colors), strict=True)
        ],
        "taps": list(index.taps),
        "datasets": [{"name": name, "group": group} for name, group in index.datasets],
        "methods": list(index.methods),
        "detector": default_method(detectors) if detectors else None,
        "series": _series(runs, index),
        "relations": {str(number): _relations(rows) for number, rows in enumerate(relations) if rows},
        "histograms": [_histogram(number, row, index) for number, run in enumerate(runs) for row in run.histograms],
        "reasons": list(index.reasons),
    }
    return payload | {"metrics": _metrics(runs, relations)}


def _symbols(colors: Sequence[int]) -> list[int]:
    """A symbol of eight for each run, by its place; the next free one where that is taken in the run's colour of eight.

    So 64 runs can be told apart.
    """
    taken: set[tuple[int, int]] = set()
    symbols = []
    for place, color in enumerate(colors):
        free = ((place + step) % 8 for step in range(8) if (color % 8, (place + step) % 8) not in taken)
        symbols.append(next(free, place % 8))
        taken.add((color % 8, symbols[-1]))
    return symbols


def _series(runs: Sequence[Run], index: Index) -> dict[str, dict[str, Any]]:
    """Address to values, ends of intervals, counts and reasons by tap."""
    size = len(list(index.taps))
    series: dict[str, dict[str, Any]] = {}
    for number, run in enumerate(runs):
        for row in run.rows:
            tap = index.taps.get(row["tap"])
            if tap is None:
                continue
            entry = series.setdefault(index.key(number, row), {"v": [None] * size, "n": [None] * size})
            entry["v"][tap], entry["n"][tap] = compact(row["value"]), row["n"]
            if row["low"] is not None and row["high"] is not None:
                entry.setdefault("l", [None] * size)[tap] = compact(row["low"])
                entry.setdefault("h", [None] * size)[tap] = compact(row["high"])
            if row["value"] is None:
                entry.setdefault("r", {})[tap] = index.reasons[row.get("reason") or "undefined"]
    for entry in series.values():
        counts = {count for count in entry["n"] if count is not None}
        entry["n"] = counts.pop() if len(counts) == 1 else entry["n"] if counts else None
    return series


def _relations(rows: Iterable[Row]) -> dict[str, list[Any]]:
    """Address (kind, error, method, normalised, collapse metric) to numbers, n and reason."""
    return {
        f"{row['kind']} {row['y']} {row['method']} {int(bool(row['normalized']))} {row['x']}": [
            *(compact(row.get(name)) for name in (*_CORRELATIONS, "n", *_ACROSS)),
            row.get("reason"),
        ]
        for row in rows
    }


def _metrics(runs: Sequence[Run], relations: Iterable[Iterable[Row]]) -> dict[str, dict[str, str]]:
    names = dict.fromkeys(row["metric"] for run in runs for row in run.rows)
    for rows in relations:
        for row in rows:
            names |= {row["x"]: None, row["y"]: None}
    for run in runs:
        names |= {parts[2]: None for line in run.log for parts in [key.split("/") for key in line] if len(parts) == 3}
    shown = {name: metric(name) for name in names}
    return {name: {"label": found.label, "unit": found.unit, "better": found.better} for name, found in shown.items()}


def _histogram(run: int, row: Row, index: Index) -> list[Any]:
    """Run, tap, detector, data set, first edge, last edge (or all edges where their steps differ), counts."""
    edges = row["edges"]
    step = (edges[-1] - edges[0]) / max(len(edges) - 1, 1)
    even = all(abs(edge - edges[0] - position * step) <= 1e-6 * abs(step) for position, edge in enumerate(edges))
    ends = [edges[0], edges[-1]] if even else edges
    names = [index.taps[row["tap"]], index.methods[row["detector"]], row["dataset"]]
    return [run, *names, [compact(edge) for edge in ends], [compact(count) for count in row["counts"]]]


def _training(run: Run) -> dict[str, Any]:
    """Split to x (epochs, else steps) and values by name, thinned to `LOG_POINTS`."""
    curves: dict[str, Any] = {}
    unit = "epoch" if all("epoch" in line for line in run.log) else "step"
    for split in dict.fromkeys(str(line.get("split", "train")) for line in run.log):
        lines = [line for line in run.log if str(line.get("split", "train")) == split]
        stride = -(-len(lines) // LOG_POINTS)
        lines = [line for number, line in enumerate(lines) if number % stride == 0 or number == len(lines) - 1]
        names = dict.fromkeys(name for line in lines for name, value in line.items() if _is_number(value))
        curves[split] = {
            "x": [compact(line.get(unit)) for line in lines],
            "y": {
                name: [compact(line[name]) if _is_number(line.get(name)) else None for line in lines]
                for name in names
                if name not in ("step", "epoch")
            },
        }
    return {"unit": unit, "curves": curves} if curves else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
