"""The verdict on a run in sentences, and the few numbers a reader looks for first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from ood_nc.documents import MEAN, is_one_set, lacking, mean_key, sets_of_means
from ood_nc.headline import Headline, headline
from ood_nc.report.documents import Row, Run
from ood_nc.report.glossary import metric
from ood_nc.report.numbers import DASH, interval, number
from ood_nc.report.summary import notes_on
from ood_nc.report.tables import Table, cell

_CHANCE_FPR95 = 0.95
"""What a score that knows nothing reaches."""


def sentences(run: Run) -> list[str]:
    """The verdict on one run: for each task the headline's numbers, then the best in hindsight, marked as such."""
    chosen = headline(run.identity)
    found = [_detection_row(run, chosen, name, "fpr95_id_positive") for name in chosen.detectors]
    told = [_told("OOD detection", chosen.detection_tap, [row for row in found if row])]
    transfer = _transfer_row(run, chosen)
    told.append(_told("Transfer", chosen.transfer_tap, [transfer] if transfer else []))
    for task in ("detection", "transfer"):
        followed = (choice for choice in run.choices if choice["task"] == task and choice.get("recommended"))
        if (choice := next(followed, None)) is not None:
            told.append(_hindsight(task, choice))
    return [text for text in told if text]


def _told(task: str, tap: str, rows: Sequence[Row]) -> str:
    rows = [row for row in rows if row["value"] is not None]
    if not rows:
        return ""
    shown = metric(rows[0]["metric"])
    label = shown.label if shown.label[:2].isupper() else shown.label.lower()
    values = (
        f"{number(row['value'], shown.unit)} % {interval(row['low'], row['high'], shown.unit) or '(no interval)'} by "
        f"{row['method']}{_chance(row)}"
        for row in rows
    )
    return f"{task} on {tap}, fixed before any test set was read: mean {label} {', '.join(values)}."


def _chance(row: Row) -> str:
    return ", no better than chance" if row["metric"] == "fpr95_id_positive" and row["value"] >= _CHANCE_FPR95 else ""


def _hindsight(task: str, choice: Row) -> str:
    """The best tap and method, which were picked on the test sets, and what was recommended without them."""
    shown, value, picked = metric(choice["metric"]), choice["value_best"], choice["value_chosen"]
    if value is None:
        return ""
    if shown.better == "higher":
        value, picked, shown = 1 - value, None if picked is None else 1 - picked, metric("transfer_error")
    if task == "detection" and value >= _CHANCE_FPR95:
        return "In hindsight no tap with any detector tells these OOD sets from ID better than chance."
    text = (
        f"Best {task} in hindsight, picked on the test sets and so too good to expect again: {choice['best_tap']} with "
        f"{choice['best_method']}, mean {number(value, shown.unit)} %"
    )
    if choice["regret"] is None:
        return f"{text}; what is recommended without these data cannot be compared ({choice.get('reason')})."
    if (choice["chosen_tap"], choice["method"]) == (choice["best_tap"], choice["best_method"]):
        return f"{text}. It is also what is recommended without these data."
    return (
        f"{text}. Recommended without these data is {choice['chosen_tap']} with {choice['method']}: "
        f"{number(picked, shown.unit)} %, a regret of {number(choice['regret'], shown.unit)} points."
    )


def columns(runs: Sequence[Run]) -> list[list[int]]:
    """The runs of each column of the headline: the seeds of one configuration share one, the others have their own."""
    groups: dict[str, list[int]] = {}
    for place, run in enumerate(runs):
        groups.setdefault(run.group, []).append(place)
    return list(groups.values())


def headlines(runs: Sequence[Run], comparison: Mapping[str, Any] | None) -> list[Table]:
    """The few numbers a reader looks for first, a row each, a cell a column, and their difference if any."""
    chosen, places = [headline(run.identity) for run in runs], columns(runs)
    averaged = [sets_of_means(run.rows) for run in runs]

    def with_sets(rows: Sequence[Row | None]) -> list[Row | None]:
        return [row and {**row, "sets": of.get(mean_key(row))} for row, of in zip(rows, averaged, strict=True)]

    lines = [_headline_line("ID accuracy", "accuracy", "accuracy", [id_accuracy(run) for run in runs], places)]
    for detector in dict.fromkeys(name for one in chosen for name in one.detectors):
        for name, label in (("fpr95_id_positive", "Mean FPR95 (ID positive)"), ("auroc", "Mean AUROC")):
            rows = [_detection_row(run, one, detector, name) for run, one in zip(runs, chosen, strict=True)]
            lines.append(_headline_line(f"{label}, {detector}", "detection", name, with_sets(rows), places, detector))
    rows = [_transfer_row(run, one) for run, one in zip(runs, chosen, strict=True)]
    lines.append(_headline_line("Mean transfer error", "transfer", "transfer_error", with_sets(rows), places))
    for line in lines:
        line["difference"] = _headline_difference(line, comparison)
    return [
        line for line in lines if line["kind"] == "accuracy" or not all(cell["undefined"] for cell in line["cells"])
    ]


def headline_notes(runs: Sequence[Run]) -> list[str]:
    """What is to be known beside the headline: the notes on the sets of its means, on its tap and on its detectors.

    Scores that tie, a bank of copies, images that are in two sets, sizes that give a set away.
    """
    told: list[str] = []
    for run in runs:
        chosen = headline(run.identity)
        sets = [row["dataset"] for row in run.rows if row["kind"] == "detection" and is_one_set(row)]
        subjects = [*sets, chosen.detection_tap, *(f"{chosen.detection_tap}, {name}" for name in chosen.detectors)]
        told += notes_on([run], *dict.fromkeys(subjects), "ID test")
    return list(dict.fromkeys(told))


def _headline_line(
    name: str,
    kind: str,
    metric_name: str,
    rows: Sequence[Row | None],
    places: Sequence[Sequence[int]],
    method: str = "",
) -> Table:
    cells = [_over_seeds([rows[run] for run in column], with_tap=kind != "accuracy") for column in places]
    firsts = {place: row for place, column in enumerate(places) if (row := rows[column[0]]) and row.get("sets")}
    for place, names in lacking({place: row["sets"] for place, row in firsts.items()}).items():
        if not cells[place]["undefined"]:
            cells[place]["detail"] += f"; without {names}"
    return {"name": name, "cells": cells, "kind": kind, "metric": metric_name, "method": method}


def _over_seeds(rows: Sequence[Row | None], *, with_tap: bool) -> Table:
    """The value of one run, or the mean of several with each beside it; undefined where one is."""
    first = rows[0]
    lacking = next((row for row in rows if row is None or row["value"] is None), first)
    detail = [f"{first['tap']}, {first['method']}"] if first and with_tap else []
    if len(rows) == 1 or lacking is not first or first is None or first["value"] is None:
        return {**cell(lacking, "percent"), "detail": "".join(detail)}
    values = [float(row["value"]) for row in rows if row]
    mean = cell({**first, "value": fmean(values), "low": None, "high": None}, "percent")
    each = f"each seed {', '.join(number(value, 'percent') for value in values)}"
    if with_tap and len({(row["n"], row["sets"]) for row in rows if row}) > 1:
        mean |= {"text": DASH, "value": "", "title": "no mean over seeds: their sets are not the same"}
        each += ", over other sets"
    return {**mean, "detail": "; ".join([*detail, each])}


def _detection_row(run: Run, chosen: Headline, detector: str, name: str) -> Row | None:
    return _mean_row(run, kind="detection", tap=chosen.detection_tap, method=detector, metric=name, group="ood")


def _transfer_row(run: Run, chosen: Headline) -> Row | None:
    """The mean over transfer sets, as an error: one sign for values and differences."""
    where = {"kind": "transfer", "tap": chosen.transfer_tap, "method": chosen.probe, "group": "transfer"}
    row = _mean_row(run, **where, metric="accuracy")
    if row is None or row["value"] is None:
        return row
    low, high = (None if row[end] is None else 1 - row[end] for end in ("high", "low"))
    return {**row, "metric": "transfer_error", "value": 1 - row["value"], "low": low, "high": high}


def _mean_row(run: Run, **wanted: Any) -> Row | None:
    wanted["dataset"] = MEAN
    return next((row for row in run.rows if wanted.items() <= row.items()), None)


def _headline_difference(line: Table, comparison: Mapping[str, Any] | None) -> Table | None:
    entries = [entry for entry in (comparison or {}).get("differences", []) if entry.get("headline")]
    if len({(entry["a"], entry["b"]) for entry in entries}) != 1:
        return None
    for entry in entries:
        overall = line["kind"] == "accuracy" or (entry["dataset"] == MEAN and entry["group"] in ("ood", "transfer"))
        named = line["method"] in ("", entry["method"])
        if entry["kind"] == line["kind"] and entry["metric"] == line["metric"] and overall and named:
            return dict(entry)
    return None


def id_accuracy(run: Run) -> Row | None:
    """The row of the head's ID accuracy; where that is undefined, of the probe on the tap that the head reads."""
    rows = [
        row for row in run.rows if row["kind"] == "accuracy" and row["metric"] == "accuracy" and row["group"] == "id"
    ]
    heads = [row for row in rows if row["method"] == "head"]
    lasts = [row for row in rows if row["tap"] == run.head_tap]
    candidates = [*heads, *lasts]
    return next((row for row in candidates if row["value"] is not None), next(iter(candidates), None))
