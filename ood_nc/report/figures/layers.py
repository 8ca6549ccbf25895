"""Every layer's input (Rangamani et al., ICML 2023): by depth at the end of training, and over its epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ood_nc.report.documents import Row, Run
from ood_nc.report.figures.figure import Figure, Panel, Series, named, style
from ood_nc.report.glossary import metric

BY_DEPTH: dict[str, tuple[str, ...]] = {
    "within_share": ("id_train",),
    "cdnv": ("id_train",),
    "ncc_accuracy": ("id_train", "id_test"),
    "ncc_agreement": ("id_train", "id_test"),
    "nc2_angle": ("id_train",),
    "pabs": ("id_train",),
    "accuracy_rank_c": ("id_test",),
    "accuracy_rank_c_onward": ("id_test",),
}
OVER_EPOCHS = ("within_share", "ncc_accuracy", "cdnv", "pabs")
SETS = {"id_train": "ID train", "id_test": "ID test"}


def layers(runs: Sequence[Run]) -> Figure:
    """A panel a metric, data set and architecture: the layers in the order in which they run; their effective depth."""
    panels, kinds = [], _by_kind(runs)
    for name, sets in BY_DEPTH.items():
        for kind, alike in kinds.items():
            series = [one for run in alike for one in _by_depth(runs, alike, run, name, sets)]
            if series:
                shown = metric(name)
                title = shown.label + (f": {kind}" if len(kinds) > 1 else "")
                place = "layer, in the order in which they run"
                panels.append(Panel(title, place, shown.axis(), series, note=_note(alike, name)))
    return Figure("layers", "Every layer's input, by depth", panels, columns=max(2, min(len(kinds), 4)))


def courses(runs: Sequence[Run]) -> Figure:
    """A heat map of layer and epoch for each metric and run, on ID train."""
    panels = []
    for run in runs:
        lines = [line for line in run.log if line.get("split") == "layers"]
        for name in OVER_EPOCHS if lines else ():
            shown = metric(name)
            depths = {row["tap"]: row["depth"] for row in run.rows if row["kind"] == "layer"}
            # The key is "layers/<layer>/id_train/<metric>"; a layer's name has dots and no slash.
            names = [key.split("/")[1] for key in lines[-1] if key.endswith(f"/id_train/{name}")]
            cells = []
            for line in lines:
                values = [line.get(f"layers/{layer}/id_train/{name}") for layer in names]
                shades = [None if value is None else shown.scale * value for value in values]
                places = [str(depths.get(layer, number)) for number, layer in enumerate(names)]
                cells.append(Series(f"{line['epoch']:g}", places, shades, labels=names, mark="cells"))
            if names:
                panels.append(Panel(named(runs, run, shown.axis()), "layer", "epoch", cells))
    return Figure("courses", "Every layer's input over training", panels, columns=2)


def _by_kind(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs that were followed by architecture and data set, whose layers alone can be told one by one."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        if any(row["kind"] == "layer" for row in run.rows):
            source = str(run.identity["datasets"]["id_train"].get("source", "")).partition("::")[0]
            found.setdefault(" on ".join(part for part in (run.identity["model"], source) if part), []).append(run)
    return found


def _by_depth(runs: Sequence[Run], alike: Sequence[Run], run: Run, name: str, sets: Sequence[str]) -> list[Series]:
    series, scale = [], metric(name).scale
    for variant, dataset in enumerate(sets):
        wanted: dict[str, Any] = {"kind": "layer", "metric": name, "dataset": dataset}
        found: list[Row] = [row for row in run.rows if wanted.items() <= row.items() and row["value"] is not None]
        found.sort(key=lambda row: row["depth"])
        if found:
            taps, values = [row["tap"] for row in found], [scale * row["value"] for row in found]
            label, places = SETS[dataset] if len(sets) > 1 else "", [str(row["depth"]) for row in found]
            series.append(Series(named(alike, run, label), places, values, labels=taps, **style(runs, run, variant)))
    return series


def _note(runs: Sequence[Run], name: str) -> str:
    """Where the effective depth is, below the panel of the accuracy that decides it."""
    if name != "ncc_accuracy":
        return ""
    told = []
    for run in runs:
        for row in run.rows:
            if row["kind"] == "layer" and row["metric"] == "effective_depth":
                depth = "none" if row["value"] is None else f"{row['value']:.0f}"
                told.append(named(runs, run, f"effective depth {depth}"))
    return "; ".join(told)
