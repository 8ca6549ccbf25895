"""Paired differences between two runs: point values and bootstrap replicates on the same resampled images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ood_nc.documents import MEAN, OOD_GROUPS, measured_taps
from ood_nc.evaluation.common_samples import COMPARED, Array, CommonSamples
from ood_nc.evaluation.scores_table import Set, correct_column, score_column
from ood_nc.headline import headline

Pair = tuple[str, str]


@dataclass(frozen=True)
class Cell:
    """One thing that is compared: where each run reads it, on which set, in which metric."""

    kind: str
    tap: Pair
    method: Pair
    dataset: str
    group: str
    metric: str
    headline: bool


@dataclass(frozen=True)
class Difference:
    """Run b minus run a: the value (first) and its replicates, and the number of samples."""

    values: Array
    n: int


def left_out(pair: CommonSamples) -> list[str]:
    """What two runs do not share completely, sets of which the same is true in one note."""
    a, b = pair.runs
    noted: dict[str, list[str]] = {}
    for chosen in dict.fromkeys([*a.ids, *b.ids]):
        note = _left_out(pair, chosen)
        if note and chosen[1] not in noted.setdefault(note, []):
            noted[note].append(chosen[1])
    return [f"{', '.join(names)}: {note}" for note, names in noted.items()]


def _left_out(pair: CommonSamples, chosen: Set) -> str | None:
    a, b = pair.runs
    sizes = len(a.ids.get(chosen, [])), len(b.ids.get(chosen, []))
    shared = len(pair.ids.get(chosen, ()))
    known = [run.datasets.get(chosen, {}) for run in pair.runs]
    if 0 in sizes:
        return "in one of the two runs only"
    if a.is_of_other_data(b, chosen):
        return f"{known[0]['source']} in one run, {known[1]['source']} in the other: not compared"
    if a.groups[chosen] != b.groups[chosen]:
        return f"{a.groups[chosen]} in one run, {b.groups[chosen]} in the other: counted as {a.groups[chosen]}"
    if {shared} != set(sizes):
        return f"of {sizes[0]} and {sizes[1]} images, the {shared} in both runs are compared"
    if known[0].get("fingerprint") != known[1].get("fingerprint"):
        return "the images of the two runs (or features of them) differ; those of equal ids are taken for the same"
    return None


def differences(pair: CommonSamples, a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[Cell, Difference]:
    """Every difference between two runs on a set.

    These are: the headline's detectors and probe; every other detector and probe that both runs have, on the headline's
    taps; the headline's on every tap both runs have; ID accuracy.

    Args:
        pair: the two runs, the reference first.
        a: the identity of the reference.
        b: that of the other run.
    """
    found: dict[Cell, Difference] = {}
    one, two = headline(a), headline(b)
    names = measured_taps(a), measured_taps(b)
    shared = list(dict.fromkeys((names[0][tap], names[1][tap]) for tap in names[0] if tap in names[1]))
    both = {key: [(name, name) for name in a[key] if name in b[key]] for key in ("detectors", "probes")}

    taps = (one.detection_tap, two.detection_tap)
    firsts = list(zip(one.detectors[:1], two.detectors[:1], strict=False))
    heads = [(name, name) for name in one.detectors if name in two.detectors] or firsts
    for place in _places(taps, heads, both["detectors"], shared):
        _add_detection(found, pair, *place, headline=place[0] == taps and place[1] in heads)

    probed = (one.transfer_tap, two.transfer_tap)
    heads = [(one.probe, two.probe)] if one.probe and two.probe else []
    for place in _places(probed, heads, both["probes"], shared):
        _add_transfer(found, pair, *place, headline=place[0] == probed and place[1] in heads)

    for chosen, gain in _accuracy(pair, "id", taps, ("head", "head")).items():
        found[Cell("accuracy", taps, ("head", "head"), chosen[1], "id", "accuracy", True)] = gain
    return found


def with_means(found: Mapping[Cell, Sequence[Difference]], seeds: int) -> dict[Cell, list[Difference]]:
    """The differences with, after those of each place and metric, their means by group and over near and far sets.

    Args:
        found: the differences of every seed, by what is compared.
        seeds: how many there are. A set that one of them lacks is in no mean, which would be of other sets there.
    """
    places: dict[Cell, dict[Cell, list[Difference]]] = {}
    for cell, parts in found.items():
        places.setdefault(replace(cell, dataset=MEAN, group=""), {})[cell] = list(parts)
    told: dict[Cell, list[Difference]] = {}
    for place, sets in places.items():
        told |= sets
        groups: dict[str, list[list[Difference]]] = {}
        for cell, parts in sets.items():
            if cell.kind != "accuracy" and len(parts) == seeds:
                for name in (cell.group, "ood") if cell.group in OOD_GROUPS else (cell.group,):
                    groups.setdefault(name, []).append(parts)
        for name, parts_of in groups.items():
            told[replace(place, group=name)] = [_mean(of_seed) for of_seed in zip(*parts_of, strict=True)]
    return told


def _places(
    taps: Pair, heads: Sequence[Pair], methods: Sequence[Pair], shared: Sequence[Pair]
) -> list[tuple[Pair, Pair]]:
    """Taps and methods to compare: the headline's first, then every method there, then the headline's everywhere."""
    places = [(taps, method) for method in (*heads, *methods)] + [(tap, head) for tap in shared for head in heads]
    return list(dict.fromkeys(places))


def _add_detection(
    found: dict[Cell, Difference], pair: CommonSamples, taps: Pair, methods: Pair, *, headline: bool
) -> None:
    a, b = (pair.detection(run, score_column(taps[run], methods[run])) for run in (0, 1))
    for metric in COMPARED:
        for chosen in [chosen for chosen in a if chosen in b]:
            one = Difference(b[chosen][metric] - a[chosen][metric], len(pair.ids[chosen]))
            found[Cell("detection", taps, methods, chosen[1], pair.groups[chosen], metric, headline)] = one


def _add_transfer(
    found: dict[Cell, Difference], pair: CommonSamples, taps: Pair, methods: Pair, *, headline: bool
) -> None:
    for chosen, gain in _accuracy(pair, "transfer", taps, methods).items():
        error = Difference(-gain.values, gain.n)
        found[Cell("transfer", taps, methods, chosen[1], "transfer", "transfer_error", headline)] = error


def _accuracy(pair: CommonSamples, role: str, taps: Pair, methods: Pair) -> dict[Set, Difference]:
    """Accuracy of run b minus run a on every set of a role where both are defined."""
    found: dict[Set, Difference] = {}
    for chosen in [chosen for chosen in pair.ids if chosen[0] == role]:
        a, b = (pair.column(run, chosen, correct_column(taps[run], methods[run])) for run in (0, 1))
        if a is not None and b is not None:
            gain = b.astype(np.float64) - a.astype(np.float64)
            drawn, total = pair.counts[chosen].T, np.zeros(len(pair.counts[chosen]))
            for step in np.unique(gain[gain != 0]):  # of few-shot probes a share of the draws
                total += step * drawn[gain == step].sum(axis=0, dtype=np.int64)
            found[chosen] = Difference(np.concatenate([[gain.mean()], total / len(gain)]), len(gain))
    return found


def _mean(parts: Sequence[Difference]) -> Difference:
    return Difference(np.mean([part.values for part in parts], axis=0), sum(part.n for part in parts))
