"""Figure 4: histograms of the energy at the encoder and at the projector, with FPR95 of each OOD set."""

from __future__ import annotations

from collections.abc import Sequence

from ood_nc.headline import headline
from ood_nc.report.documents import Run
from ood_nc.report.figures.figure import HUES, Figure, Panel, Series, by_tap
from ood_nc.report.figures.outcomes import method_of
from ood_nc.report.numbers import percent


def histograms(runs: Sequence[Run]) -> Figure:
    """A panel a run and tap; the score is larger for what is more in-distribution."""
    panels = []
    for run in runs:
        chosen, detector = headline(run.identity), method_of(run, "detection")
        for tap in dict.fromkeys((chosen.transfer_tap, chosen.detection_tap)):
            series = _series(run, tap, detector)
            if series:
                title = f"{run.name}: {tap}, {detector}"
                note = _fpr95(run, tap, detector)
                panels.append(
                    Panel(title, "score, larger = more in-distribution", "share of images, %", series, note=note)
                )
    missing = None if panels else "no run has histograms of scores at the encoder or at the tap the head reads"
    return Figure("histograms", "Scores of ID and OOD images", panels, columns=2, missing=missing)


def _series(run: Run, tap: str, detector: str | None) -> list[Series]:
    series: list[Series] = []
    for row in run.histograms:
        if (row["tap"], row["detector"]) == (tap, detector) and sum(row["counts"]):
            is_id, total = row["dataset"] == "id_test", sum(row["counts"])
            shares = [100 * count / total for count in row["counts"]]
            name = "held-out ID" if is_id else row["dataset"]
            color = 6 if is_id else HUES[(len(series) - 1) % 7]
            series.append(Series(name, row["edges"], [*shares, 0.0], mark="steps", color=color))
    return series


def _fpr95(run: Run, tap: str, detector: str | None) -> str:
    told = []
    for dataset in dict.fromkeys(row["dataset"] for row in run.histograms if row["dataset"] != "id_test"):
        rows = by_tap(run, kind="detection", method=detector, dataset=dataset, metric="fpr95_id_positive")
        if tap in rows:
            told.append(f"{dataset} {percent(rows[tap]['value'])} %")
    return f"FPR95 (ID positive): {', '.join(told)}" if told else ""
