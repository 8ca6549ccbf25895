"""The table and the figure of a finished sweep: collapse, detection, transfer and accuracy by setting."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from ood_nc.documents import MEAN, lacking, mean_key, sets_of_means
from ood_nc.errors import UserError
from ood_nc.files import write_text
from ood_nc.headline import headline
from ood_nc.report.documents import Run, read_runs
from ood_nc.report.figures.figure import Figure, Panel, Series, by_tap
from ood_nc.report.figures.files import write_figures
from ood_nc.report.headlines import id_accuracy
from ood_nc.report.numbers import number

Setting = tuple[tuple[str, Any], ...]
"""Keys and values, without the seed."""
Outcome = tuple[float, frozenset[str]]
"""A value, and the sets that it is a mean over."""

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
    runs, given = read_runs(list(settings)), list(settings.values())
    table = sweep_table(runs, given)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    write_text(folder / "sweep.csv", text.getvalue())
    notes = [f"{name}: {note}." for name, found in _measured(runs, given).items() if (note := _note(found, given))]
    write_text(folder / "sweep.md", "\n".join([_markdown(table), *notes, *([""] if notes else [])]))
    try:
        write_figures([sweep_figure(name, runs, given)], folder)
    except UserError as error:
        if "matplotlib" not in str(error):
            raise
    return folder / "sweep.md"


def sweep_table(runs: Sequence[Run], settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row a setting without its seed: the values that vary, how many seeds, and each outcome's mean over all of them.

    What is undefined for a seed has no mean: the others alone may be the easier ones. Neither has a mean over sets
    where those of the seeds are not the same.
    """
    varied, measured, rows = _varied(settings), _measured(runs, settings), []
    for key, members in _groups(settings).items():
        means = {name: _mean(found[key]) if key in found else None for name, found in measured.items()}
        rows.append({**{name: value for name, value in key if name in varied}, "seeds": str(len(members)), **means})
    return rows


def sweep_figure(name: str, runs: Sequence[Run], settings: Sequence[Mapping[str, Any]]) -> Figure:
    """A panel an outcome over the settings, from the lowest to the highest seed."""
    varied, panels = _varied(settings), []
    for outcome, found in _measured(runs, settings).items():
        if found:
            x, y = [_label(key, varied) for key in found], [_mean(seeds) for seeds in found.values()]
            low, high = ([end(seeds)[0] for seeds in found.values()] for end in (min, max))
            series = Series("mean over seeds", x, y, low=low, high=high, labels=x)
            place = ", ".join(key.rpartition(".")[2] for key in varied)
            panels.append(Panel(outcome, place, outcome, [series], note=_note(found, settings)))
    return Figure("sweep", f"Sweep {name}", panels)


def _measured(runs: Sequence[Run], settings: Sequence[Mapping[str, Any]]) -> dict[str, dict[Setting, list[Outcome]]]:
    """By name of an outcome and setting, what every seed has, where all have it over the same sets."""
    outcomes = [_outcomes(run) for run in runs]
    measured: dict[str, dict[Setting, list[Outcome]]] = {name: {} for one in outcomes for name in one}
    for name, found in measured.items():
        for key, members in _groups(settings).items():
            seeds = [outcomes[member].get(name) for member in members]
            known = [one for one in seeds if one is not None]
            if len(known) == len(seeds) and len({sets for _, sets in known}) == 1:
                found[key] = known
    return measured


def _mean(seeds: Sequence[Outcome]) -> float:
    return mean(value for value, _ in seeds)


def _note(found: Mapping[Setting, Sequence[Outcome]], settings: Sequence[Mapping[str, Any]]) -> str:
    """Which settings' means are over fewer sets than those beside them."""
    fewer = lacking({_label(key, _varied(settings)): seeds[0][1] for key, seeds in found.items()})
    return "; ".join(f"{label} is without {names}" for label, names in fewer.items())


def _label(key: Setting, varied: Sequence[str]) -> str:
    return ", ".join(str(dict(key)[name]) for name in varied) or "all"


def _groups(settings: Sequence[Mapping[str, Any]]) -> dict[Setting, list[int]]:
    """The positions of the runs of each setting without its seed, its values as text."""
    groups: dict[Setting, list[int]] = {}
    for position, setting in enumerate(settings):
        key = tuple((name, str(value)) for name, value in setting.items() if name not in SEEDS)
        groups.setdefault(key, []).append(position)
    return groups


def _varied(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    return [key for key in settings[0] if key not in SEEDS and len({str(setting[key]) for setting in settings}) > 1]


def _outcomes(run: Run) -> dict[str, Outcome | None]:
    """What a sweep is judged by, under names that say their conventions; None where it is undefined."""
    chosen, averaged, no_sets = headline(run.identity), sets_of_means(run.rows), frozenset[str]()
    accuracy = id_accuracy(run)
    found: dict[str, Outcome | None] = {"ID accuracy, %": None}
    if accuracy is not None and accuracy["value"] is not None:
        found["ID accuracy, %"] = 100 * accuracy["value"], no_sets
    nc1 = by_tap(run, kind="collapse", dataset="id_train", metric="nc1_pinv")
    for label, tap in (("NC1 at the encoder", chosen.transfer_tap), ("NC1 at the head's tap", chosen.detection_tap)):
        found[label] = (nc1[tap]["value"], no_sets) if tap in nc1 else None
    detection = {"kind": "detection", "metric": "fpr95_id_positive", "group": "ood"}
    wanted: list[tuple[str, str, dict[str, Any]]] = [
        (f"mean FPR95 (ID positive) by {name}, %", chosen.detection_tap, {**detection, "method": name})
        for name in chosen.detectors
    ]
    probe = {"kind": "transfer", "metric": "accuracy", "method": chosen.probe}
    for label, tap, equals in [*wanted, ("mean transfer error, %", chosen.transfer_tap, probe)]:
        row = by_tap(run, **equals, dataset=MEAN).get(tap)
        if row is None:
            found[label] = None
        else:
            error = row["value"] if equals is not probe else 1 - row["value"]
            found[label] = 100 * error, averaged.get(mean_key(row), no_sets)
    return found


def _markdown(table: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| " + " | ".join(table[0]) + " |", "|" + "---|" * len(table[0])]
    for row in table:
        cells = (value if isinstance(value, str) else number(value, "number") for value in row.values())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
