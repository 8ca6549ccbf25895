"""Figure 3: mean FPR95 and transfer error of each arm, by architecture."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

from ood_nc.documents import MEAN, lacking, mean_key, sets_of_means
from ood_nc.headline import headline
from ood_nc.report.documents import Row, Run, settings
from ood_nc.report.figures.figure import Figure, Panel, Series

Place = tuple[str, str]
"""Arm and architecture."""


def outcomes(runs: Sequence[Run]) -> Figure:
    """The headline's means: bars over seeds, from the lowest to the highest seed where there are several.

    Seeds whose means are not over the same sets have no bar; the note says so, and which bars are over fewer sets.
    """
    panels = []
    detectors = dict.fromkeys(name for run in runs for name in headline(run.identity).detectors)
    wanted: list[tuple[str, str | None]] = [(f"mean FPR95 (ID positive) by {name}, %", name) for name in detectors]
    averaged = [sets_of_means(run.rows) for run in runs]
    for label, detector in [*wanted, ("mean transfer error, %", None)]:
        means: dict[Place, list[Row | None]] = {}
        for run, sets in zip(runs, averaged, strict=True):
            row = _row(run, detector)
            means.setdefault((arm(runs, run), architecture(run)), []).append(
                row and {**row, "sets": sets.get(mean_key(row), frozenset())}
            )
        means = {place: rows for place, rows in means.items() if any(rows)}
        if means:
            panels.append(_panel(label, means))
    missing = None if panels else "no run has a mean over OOD sets or over transfer sets"
    return Figure("outcomes", "Detection and transfer by architecture and arm", panels, missing=missing)


def architecture(run: Run) -> str:
    """The backbone's name."""
    return str(run.identity.get("model") or "model")


def arm(runs: Sequence[Run], run: Run) -> str:
    """What of the method a run has; the name of its group where that does not tell the groups apart."""
    same = {other.group for other in runs if (_arm(other), architecture(other)) == (_arm(run), architecture(run))}
    return _arm(run) if len(same) == 1 else run.group


def _arm(run: Run) -> str:
    chosen = settings(run)
    if not chosen:
        return run.group
    kind = chosen.get("model.projector.kind")
    weights = [value for key, value in chosen.items() if key.startswith("loss.entropy_weight")]
    parts = [] if kind == "none" else ["projector" if kind == "simplex_etf" else f"{kind} projector"]
    parts += ["entropy"] if any(weights) else []
    return " + ".join(parts) or ("baseline, GN + WS" if chosen.get("model.normalization") == "group_ws" else "baseline")


def method_of(run: Run, task: str) -> str | None:
    """The detector of the published figures, where it ran, else the first; the probe of the headline."""
    if task == "transfer":
        return headline(run.identity).probe
    detectors = run.identity.get("detectors") or ()
    return "energy" if "energy" in detectors else next(iter(detectors), None)


def _row(run: Run, detector: str | None) -> Row | None:
    """The headline's mean, with its error in %; None where it is undefined."""
    chosen = headline(run.identity)
    wanted: dict[str, Any] = (
        {"kind": "transfer", "tap": chosen.transfer_tap, "method": chosen.probe, "metric": "accuracy"}
        if detector is None
        else {"kind": "detection", "tap": chosen.detection_tap, "method": detector, "metric": "fpr95_id_positive"}
    )
    wanted |= {"dataset": MEAN, "group": "transfer" if detector is None else "ood"}
    row = next((row for row in run.rows if wanted.items() <= row.items()), None)
    if row is None or row["value"] is None:
        return None
    return {**row, "error": 100 * (1 - row["value"] if detector is None else row["value"])}


def _panel(label: str, means: dict[Place, list[Row | None]]) -> Panel:
    """The bars of one measure."""
    alike: dict[Place, list[Row]] = {}
    for place, rows in means.items():
        known = [row for row in rows if row]
        if len(known) == len(rows) and len({(row["n"], row["sets"]) for row in known}) == 1:
            alike[place] = known
    notes = [
        f"{', '.join(place)}: no mean, for not every seed has it over the same sets"
        for place in means
        if place not in alike
    ]
    fewer = lacking({place: rows[0]["sets"] for place, rows in alike.items()})
    notes += [f"{', '.join(place)}: without {names}" for place, names in fewer.items()]
    errors = {place: [row["error"] for row in rows] for place, rows in alike.items()}
    arms = list(dict.fromkeys(name for name, _ in means))
    return Panel(label, "architecture", label, _bars(errors, arms), note="; ".join(notes))


def _bars(values: dict[Place, list[float]], arms: Sequence[str]) -> list[Series]:
    """The bars of each arm, in the same colour whether others have some."""
    series = []
    for name in dict.fromkeys(name for name, _ in values):
        found = {place: seeds for (own, place), seeds in values.items() if own == name}
        several = any(len(seeds) > 1 for seeds in found.values())
        series.append(
            Series(
                name,
                list(found),
                [mean(seeds) for seeds in found.values()],
                low=[min(seeds) for seeds in found.values()] if several else None,
                high=[max(seeds) for seeds in found.values()] if several else None,
                labels=[f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}" for seeds in found.values()],
                mark="bars",
                color=arms.index(name) % 8,
            )
        )
    return series
