"""Figures 1 and 2: NC1 against the errors of detection and transfer, and against entropy, a point a tap."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ood_nc.documents import OOD_GROUPS, is_one_set
from ood_nc.report.documents import Run
from ood_nc.report.figures.figure import Figure, Panel, Series, by_tap, correlated, named, style
from ood_nc.report.figures.outcomes import method_of
from ood_nc.report.glossary import metric

# What the published axis is scaled by is not stated: the value, its logarithm and the share, which lies in [0, 1].
_AXES = (("nc1_pinv", False), ("nc1_pinv", True), ("within_share", False))


def trade_off(runs: Sequence[Run]) -> Figure:
    """NC1 of the ID training features against the errors, min-max normalised over the taps of each run and set."""
    title = "Collapse against the errors of detection and transfer"
    panels = []
    for task in ("detection", "transfer"):
        for x_name, log in _AXES:
            series = [one for run in runs for one in _errors(runs, run, task, x_name)]
            if series:
                y = f"{task} error, normalised"
                panels.append(_panel(x_name, log, y, series, _interval(runs, task, x_name, log)))
    missing = None if panels else "no run has NC1 beside an error that varies over at least two taps"
    return Figure("trade-off", title, panels, missing=missing)


def entropy(runs: Sequence[Run]) -> Figure:
    """Nearest-neighbour entropy against NC1, both of the ID training features."""
    panels = []
    for x_name, log in _AXES:
        series = []
        for run in runs:
            collapse = _collapse(run, x_name)
            series += _points(named(runs, run), collapse, _collapse(run, "entropy_nn"), style(runs, run, 0))
        if series:
            panels.append(_panel(x_name, log, metric("entropy_nn").label, series))
    missing = None if panels else "no run has both NC1 and entropy at two taps or more"
    return Figure("entropy", "Entropy against collapse", panels, missing=missing)


def _collapse(run: Run, name: str) -> dict[str, float]:
    rows = by_tap(run, kind="collapse", dataset="id_train", metric=name)
    return {tap: row["value"] for tap, row in rows.items()}


def _errors(runs: Sequence[Run], run: Run, task: str, x_name: str) -> Iterable[Series]:
    """A series a data set of the task."""
    detection = task == "detection"
    name = "fpr95_id_positive" if detection else "accuracy"
    wanted: dict[str, Any] = {"kind": task, "method": method_of(run, task), "metric": name}
    rows = [row for row in run.rows if wanted.items() <= row.items() and is_one_set(row)]
    sets = [row["dataset"] for row in rows if not detection or row["group"] in OOD_GROUPS]
    for variant, dataset in enumerate(dict.fromkeys(sets)):
        found = by_tap(run, **wanted, dataset=dataset)
        errors = {tap: row["value"] if detection else 1 - row["value"] for tap, row in found.items()}
        low, high = min(errors.values(), default=0.0), max(errors.values(), default=0.0)
        if high > low:
            scaled = {tap: (value - low) / (high - low) for tap, value in errors.items()}
            yield from _points(named(runs, run, dataset), _collapse(run, x_name), scaled, style(runs, run, variant))


def _points(name: str, x: Mapping[str, float], y: Mapping[str, float], look: Mapping[str, Any]) -> list[Series]:
    taps = [tap for tap in x if tap in y and x[tap] > 0]
    if len(taps) < 2:
        return []
    return [Series(name, [x[tap] for tap in taps], [y[tap] for tap in taps], labels=taps, mark="points", **look)]


def _panel(x_name: str, log: bool, y: str, series: Sequence[Series], ends: tuple[Any, Any] = (None, None)) -> Panel:
    xs = [math.log10(x) if log else x for one in series for x in one.x]
    ys = [value for one in series for value in one.y if value is not None]
    label = metric(x_name).label + (", log" if log else "")
    return Panel(f"{y}, by {label}", label, y, series, log_x=log, note=correlated(xs, ys, *ends))


def _interval(runs: Sequence[Run], task: str, x_name: str, log: bool) -> tuple[Any, Any]:
    """The interval that resamples whole taps, known for one run and an axis as measured."""
    if len(runs) > 1 or log:
        return None, None
    y = "fpr95_id_positive" if task == "detection" else "transfer_error"
    wanted = {"x": x_name, "y": y, "method": method_of(runs[0], task), "normalized": True}
    found = next((row for row in runs[0].relations if wanted.items() <= row.items()), dict[str, Any]())
    return found.get("pearson_low"), found.get("pearson_high")
