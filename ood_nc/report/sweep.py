"""The table and the figure of a finished sweep: collapse, detection, transfer and accuracy by setting."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from ood_nc.documents import MEAN
from ood_nc.errors import UserError
from ood_nc.files import write_text
from ood_nc.headline import headline
from ood_nc.report.documents import Run, read_runs
from ood_nc.report.figures.figure import Figure, Panel, Series, by_tap
from ood_nc.report.figures.files import write_figures
from ood_nc.report.headlines import id_accuracy
from ood_nc.report.numbers import number

SEEDS = ("train.seed", "seed")
"""The key of the seed, as the configuration has it and as its flag."""


def write_sweep(name: str, settings: Mapping[Path, Mapping[str, Any]], folder: Path) -> Path:
    """Write sweep.md, sweep.csv and, where matplotlib is installed, the figure.

    Args:
        name: of the sweep.
        settings: each run's directory with the keys and values it was made with.
        folder: of the files.

    Returns:
        ``sweep.md``: a row a setting, each number a mean over seeds.
    """
    runs = read_runs(list(settings))
    table = sweep_table(runs, list(settings.values()))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    write_text(folder / "sweep.csv", text.getvalue())
    write_text(folder / "sweep.md", _markdown(table))
    try:
        write_figures([sweep_figure(name, runs, list(settings.values()))], folder)
    except UserError as error:
        if "matplotlib" not in str(error):
            raise
    return folder / "sweep.md"


def sweep_table(runs: Sequence[Run], settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row a setting without its seed: the values that vary, how many seeds, and each outcome's mean over all of them.

    What is undefined for a seed has no mean: the others alone may be the easier ones.
    """
    varied, rows = _varied(settings), []
    for key, members in _groups(settings).items():
        outcomes = [_outcomes(runs[member]) for member in members]
        means = {name: _mean([one.get(name) for one in outcomes]) for name in _names(runs)}
        rows.append({**{name: value for name, value in key if name in varied}, "seeds": str(len(members)), **means})
    return rows


def sweep_figure(name: str, runs: Sequence[Run], settings: Sequence[Mapping[str, Any]]) -> Figure:
    """A panel an outcome over the settings, from the lowest to the highest seed."""
    groups = _groups(settings)
    varied = _varied(settings)
    labels = [", ".join(str(dict(group)[key]) for key in varied) or "all" for group in groups]
    panels = []
    for outcome in _names(runs):
        values = [[_outcomes(runs[member]).get(outcome) for member in members] for members in groups.values()]
        known = [[value for value in seeds if value is not None and None not in seeds] for seeds in values]
        places = [place for place, seeds in enumerate(known) if seeds]
        if places:
            x, y = [labels[place] for place in places], [mean(known[place]) for place in places]
            low, high = [min(known[place]) for place in places], [max(known[place]) for place in places]
            series = Series("mean over seeds", x, y, low=low, high=high, labels=x)
            panels.append(Panel(outcome, ", ".join(key.rpartition(".")[2] for key in varied), outcome, [series]))
    return Figure("sweep", f"Sweep {name}", panels)


def _groups(settings: Sequence[Mapping[str, Any]]) -> dict[tuple[tuple[str, Any], ...], list[int]]:
    """The positions of the runs of each setting without its seed, its values as text."""
    groups: dict[tuple[tuple[str, Any], ...], list[int]] = {}
    for position, setting in enumerate(settings):
        key = tuple((name, str(value)) for name, value in setting.items() if name not in SEEDS)
        groups.setdefault(key, []).append(position)
    return groups


def _varied(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    return [key for key in settings[0] if key not in SEEDS and len({str(setting[key]) for setting in settings}) > 1]


def _names(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in _outcomes(run)))


def _mean(values: Sequence[float | None]) -> float | None:
    return None if None in values else mean(values)  # type: ignore[type-var]


def _outcomes(run: Run) -> dict[str, float | None]:
    """What a sweep is judged by, under names that say their conventions."""
    chosen = headline(run.identity)
    accuracy = id_accuracy(run)
    found: dict[str, float | None] = {"ID accuracy, %": None if accuracy is None else _percent(accuracy["value"])}
    nc1 = by_tap(run, kind="collapse", dataset="id_train", metric="nc1_pinv")
    for label, tap in (("NC1 at the encoder", chosen.transfer_tap), ("NC1 at the head's tap", chosen.detection_tap)):
        found[label] = nc1[tap]["value"] if tap in nc1 else None
    for detector in chosen.detectors:
        wanted = {"kind": "detection", "method": detector, "metric": "fpr95_id_positive", "group": "ood"}
        rows = by_tap(run, **wanted, dataset=MEAN)
        row = rows.get(chosen.detection_tap)
        found[f"mean FPR95 (ID positive) by {detector}, %"] = None if row is None else _percent(row["value"])
    rows = by_tap(run, kind="transfer", method=chosen.probe, metric="accuracy", dataset=MEAN)
    row = rows.get(chosen.transfer_tap)
    found["mean transfer error, %"] = None if row is None else _percent(1 - row["value"])
    return found


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _markdown(table: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| " + " | ".join(table[0]) + " |", "|" + "---|" * len(table[0])]
    for row in table:
        cells = (value if isinstance(value, str) else number(value, "number") for value in row.values())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
