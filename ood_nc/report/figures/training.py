"""Figure 5: collapse, entropy and effective rank of encoder and projector while the network is trained."""

from __future__ import annotations

from collections.abc import Sequence

from ood_nc.headline import headline
from ood_nc.report.documents import Run
from ood_nc.report.figures.figure import Figure, Panel, Series, named, style
from ood_nc.report.glossary import metric

METRICS = ("nc1_pinv", "entropy_nn", "effective_rank")


def training(runs: Sequence[Run]) -> Figure:
    """A panel a metric, over epochs, on the ID training features of each measurement."""
    panels = []
    for name in METRICS:
        series = [one for run in runs for one in _curves(runs, run, name)]
        if series:
            panels.append(Panel(metric(name).label, "epoch", metric(name).label, series))
    missing = None if panels else "no run measured collapse while it was trained (train.collapse_interval)"
    return Figure("training", "Collapse during training", panels, missing=missing)


def _curves(runs: Sequence[Run], run: Run, name: str) -> list[Series]:
    chosen = headline(run.identity)
    series = []
    for variant, tap in enumerate(dict.fromkeys((chosen.transfer_tap, chosen.detection_tap))):
        key = f"collapse/{tap}/{name}"
        lines = [line for line in run.log if line.get("split") == "collapse" and line.get(key) is not None]
        if lines:
            x, y = [line["epoch"] for line in lines], [line[key] for line in lines]
            series.append(Series(named(runs, run, tap), x, y, **style(runs, run, variant)))
    return series
