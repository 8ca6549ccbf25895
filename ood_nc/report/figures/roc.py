"""ROC curves of the headline's detectors at the tap that the head reads."""

from __future__ import annotations

from collections.abc import Sequence

from ood_nc.headline import headline
from ood_nc.report.documents import Run
from ood_nc.report.figures.figure import HUES, Figure, Panel, Series


def roc(runs: Sequence[Run]) -> Figure:
    """A panel a run and detector, a curve an OOD set; nothing for results of an earlier version, which keep none."""
    panels = []
    for run in runs:
        chosen = headline(run.identity)
        for detector in chosen.detectors:
            place = (chosen.detection_tap, detector)
            rows = [row for row in run.roc if (row["tap"], row["detector"]) == place]
            if rows:
                title = f"{run.name}: {', '.join(place)}"
                series = [
                    Series(
                        row["dataset"], _percent(row["ood_accepted"]), _percent(row["id_accepted"]), color=HUES[n % 7]
                    )
                    for n, row in enumerate(rows)
                ]
                panels.append(Panel(title, "OOD images accepted, %", "ID images accepted, %", series, note=title))
    return Figure("roc", "ROC curves of ID against OOD images", panels, columns=2)


def _percent(shares: Sequence[float]) -> list[float]:
    return [100 * share for share in shares]
