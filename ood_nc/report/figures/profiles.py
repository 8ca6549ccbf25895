"""Figure 7: every tap in depth order: NC1 to NC4, entropy, rank, probe accuracy and FPR95 of each set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ood_nc.documents import is_one_set
from ood_nc.report.documents import Run
from ood_nc.report.figures.figure import Figure, Panel, Series, by_tap, named, style
from ood_nc.report.figures.outcomes import method_of
from ood_nc.report.glossary import metric

COLLAPSE = ("nc1_pinv", "nc2_etf", "nc3_duality", "nc4_ncc", "entropy_nn", "effective_rank")


def profiles(runs: Sequence[Run]) -> Figure:
    """Collapse on the ID training features, the linear probe's accuracy, FPR95 by energy."""
    panels = [_collapse(runs, name) for name in COLLAPSE]
    panels += [_sets(runs, "transfer", "accuracy"), _sets(runs, "detection", "fpr95_id_positive")]
    panels = [panel for panel in panels if panel.series]
    missing = None if panels else "no run has a measurement of a tap"
    return Figure("profiles", "Layer by layer", panels, columns=2, missing=missing)


def _collapse(runs: Sequence[Run], name: str) -> Panel:
    shown = metric(name)
    series: list[Series] = []
    for run in runs:
        found = by_tap(run, kind="collapse", dataset="id_train", metric=name)
        series += _line(named(runs, run, "ID train"), found, shown.scale, style(runs, run, 0))
    return Panel(shown.label, "tap", shown.axis(), series)


def _sets(runs: Sequence[Run], task: str, name: str) -> Panel:
    series: list[Series] = []
    for run in runs:
        wanted = {"kind": task, "metric": name, "method": method_of(run, task)}
        sets = dict.fromkeys(row["dataset"] for row in run.rows if wanted.items() <= row.items() and is_one_set(row))
        for variant, dataset in enumerate(sets):
            found = by_tap(run, **wanted, dataset=dataset)
            series += _line(named(runs, run, dataset), found, 100, style(runs, run, variant))
    label = "probe accuracy by transfer set" if task == "transfer" else "FPR95 (ID positive) by OOD set"
    return Panel(label, "tap", metric(name).axis(), series)


def _line(name: str, found: dict[str, Any], scale: int, look: dict[str, Any]) -> list[Series]:
    ends: dict[str, Any] = {end: [row[end] for row in found.values()] for end in ("low", "high")}
    known = all(value is not None for values in ends.values() for value in values)
    ends = {end: [scale * value for value in values] for end, values in ends.items()} if known else {}
    values = [scale * row["value"] for row in found.values()]
    return [Series(name, list(found), values, labels=list(found), **ends, **look)] if found else []
