"""Figure 3: mean FPR95 and transfer error of each arm, by architecture."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

from ood_nc.documents import MEAN
from ood_nc.headline import headline
from ood_nc.report.documents import Run, settings
from ood_nc.report.figures.figure import Figure, Panel, Series


def outcomes(runs: Sequence[Run]) -> Figure:
    """The headline's means: bars over seeds, from the lowest to the highest seed where there are several."""
    panels = []
    detectors = dict.fromkeys(name for run in runs for name in headline(run.identity).detectors)
    wanted: list[tuple[str, str | None]] = [(f"mean FPR95 (ID positive) by {name}, %", name) for name in detectors]
    for label, detector in [*wanted, ("mean transfer error, %", None)]:
        values: dict[tuple[str, str], list[float]] = {}
        for run in runs:
            value = _value(run, detector)
            if value is not None:
                values.setdefault((arm(runs, run), architecture(run)), []).append(100 * value)
        if values:
            panels.append(Panel(label, "architecture", label, _bars(values)))
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


def _value(run: Run, detector: str | None) -> float | None:
    chosen = headline(run.identity)
    wanted: dict[str, Any] = (
        {"kind": "transfer", "tap": chosen.transfer_tap, "method": chosen.probe, "metric": "accuracy"}
        if detector is None
        else {"kind": "detection", "tap": chosen.detection_tap, "method": detector, "metric": "fpr95_id_positive"}
    )
    wanted |= {"dataset": MEAN, "group": "transfer" if detector is None else "ood"}
    value = next((row["value"] for row in run.rows if wanted.items() <= row.items()), None)
    return 1 - value if detector is None and value is not None else value


def _bars(values: dict[tuple[str, str], list[float]]) -> list[Series]:
    series = []
    for color, name in enumerate(dict.fromkeys(name for name, _ in values)):
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
                color=color % 8,
            )
        )
    return series
