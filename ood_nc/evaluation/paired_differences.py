"""Paired differences between two runs: point values and bootstrap replicates on the same resampled images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ood_nc.documents import MEAN, OOD_GROUPS, measured_taps
from ood_nc.evaluation.scores_table import Samples, Set, correct_column, score_column, shared_rows
from ood_nc.headline import headline
from ood_nc.scores import draw_samples, ranks_of_samples, resampled_metrics

COMPARED = ("auroc", "fpr95_id_positive")

Array = NDArray[Any]
ID: Set = ("id", "id_test")
Pair = tuple[str, str]


@dataclass(frozen=True)
class Cell:
    """One thing that is compared: where each run reads it, on which set, in which metric."""

    kind: str
    tap: tuple[str, str]
    method: tuple[str, str]
    dataset: str
    group: str
    metric: str
    headline: bool


@dataclass(frozen=True)
class Difference:
    """Run b minus run a: the value (first) and its replicates, and the number of samples."""

    values: Array
    n: int


class PairedRuns:
    """Two runs on the samples both have; counts of a set are drawn once, so every difference on it is paired.

    Args:
        a: the reference.
        b: the run compared with it.
        replicates: bootstrap replicates.
        seed: of the resampling. Equal seeds draw equal samples, whatever the runs.
    """

    def __init__(self, a: Samples, b: Samples, replicates: int, seed: int) -> None:
        self.samples = (a, b)
        self.sets = [chosen for chosen in a.ids if chosen in b.ids]
        self.rows = {chosen: shared_rows(a, b, chosen) for chosen in self.sets}
        self.sets = [chosen for chosen in self.sets if len(self.rows[chosen][0])]
        self.counts = {
            chosen: draw_samples(len(self.rows[chosen][0]), replicates, [seed, position])
            for position, chosen in enumerate(self.sets)
        }

    def left_out(self) -> Iterator[str]:
        """A note for every set that the runs do not share completely."""
        a, b = self.samples
        for chosen in dict.fromkeys([*a.ids, *b.ids]):
            sizes = len(a.ids.get(chosen, [])), len(b.ids.get(chosen, []))
            shared = len(self.rows[chosen][0]) if chosen in self.rows else 0
            if {shared} != set(sizes):
                yield f"{chosen[1]}: of {sizes[0]} and {sizes[1]} images, the {shared} in both runs are compared"

    def detection(self, taps: tuple[str, str], methods: tuple[str, str]) -> dict[Set, dict[str, Difference]]:
        """AUROC and FPR95 (ID positive) of run b minus run a on every OOD set where both are defined."""
        columns = tuple(score_column(tap, method) for tap, method in zip(taps, methods, strict=True))
        found: dict[Set, dict[str, Difference]] = {}
        inside = self._pair(ID, columns) if ID in self.counts else None
        id_drawn = [ranks_of_samples(self.counts[ID], scores) for scores in inside or ()]
        for chosen in self.sets:
            outside = self._pair(chosen, columns) if chosen[0] == "ood" else None
            if inside is None or outside is None:
                continue
            a, b = (
                resampled_metrics(ids, oods, drawn, ranks_of_samples(self.counts[chosen], oods), COMPARED)
                for ids, drawn, oods in zip(inside, id_drawn, outside, strict=True)
            )
            found[chosen] = {name: Difference(b[name] - a[name], len(self.rows[chosen][0])) for name in COMPARED}
        return found

    def accuracy(self, role: str, taps: tuple[str, str], methods: tuple[str, str]) -> dict[Set, Difference]:
        """Accuracy of run b minus run a on every set of a role where both are defined."""
        columns = tuple(correct_column(tap, method) for tap, method in zip(taps, methods, strict=True))
        found: dict[Set, Difference] = {}
        for chosen in self.sets:
            pair = self._pair(chosen, columns) if chosen[0] == role else None
            if pair is not None:
                gain = pair[1].astype(np.float64) - pair[0].astype(np.float64)
                drawn = self.counts[chosen].T
                up, down = (drawn[differ].sum(axis=0, dtype=np.int64) for differ in (gain > 0, gain < 0))
                resampled = (up - down) / len(gain)
                found[chosen] = Difference(np.concatenate([[gain.mean()], resampled]), len(gain))
        return found

    def _pair(self, chosen: Set, columns: tuple[str, ...]) -> tuple[Any, Any] | None:
        values = [run.get(chosen, column) for run, column in zip(self.samples, columns, strict=True)]
        if values[0] is None or values[1] is None:
            return None
        rows = self.rows[chosen]
        return values[0][rows[0]], values[1][rows[1]]


def differences(pair: PairedRuns, a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[Cell, Difference]:
    """Every difference between two runs.

    These are: the headline's detectors and probe on each set and in the mean over sets; every other detector and probe
    that both runs have, on the headline's taps; the headline's on every tap both runs have; ID accuracy.

    Args:
        pair: the two runs.
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

    for chosen, gain in pair.accuracy("id", taps, ("head", "head")).items():
        found[Cell("accuracy", taps, ("head", "head"), chosen[1], "id", "accuracy", True)] = gain
    return found


def _places(
    taps: Pair, heads: Sequence[Pair], methods: Sequence[Pair], shared: Sequence[Pair]
) -> list[tuple[Pair, Pair]]:
    """Taps and methods to compare: the headline's first, then every method there, then the headline's everywhere."""
    places = [(taps, method) for method in (*heads, *methods)] + [(tap, head) for tap in shared for head in heads]
    return list(dict.fromkeys(places))


def _add_detection(
    found: dict[Cell, Difference], pair: PairedRuns, taps: tuple[str, str], methods: tuple[str, str], *, headline: bool
) -> None:
    by_set = pair.detection(taps, methods)
    for metric in ("fpr95_id_positive", "auroc"):
        groups: dict[str, list[Difference]] = {}
        for chosen, metrics in by_set.items():
            group = pair.samples[0].groups[chosen]
            found[Cell("detection", taps, methods, chosen[1], group, metric, headline)] = metrics[metric]
            groups.setdefault(group, []).append(metrics[metric])
            if group in OOD_GROUPS:
                groups.setdefault("ood", []).append(metrics[metric])
        for group, parts in groups.items():
            found[Cell("detection", taps, methods, MEAN, group, metric, headline)] = _mean(parts)


def _add_transfer(
    found: dict[Cell, Difference], pair: PairedRuns, taps: tuple[str, str], methods: tuple[str, str], *, headline: bool
) -> None:
    errors = {
        chosen: Difference(-gain.values, gain.n) for chosen, gain in pair.accuracy("transfer", taps, methods).items()
    }
    for chosen, error in errors.items():
        found[Cell("transfer", taps, methods, chosen[1], "transfer", "transfer_error", headline)] = error
    if errors:
        mean = _mean(list(errors.values()))
        found[Cell("transfer", taps, methods, MEAN, "transfer", "transfer_error", headline)] = mean


def _mean(parts: list[Difference]) -> Difference:
    return Difference(np.mean([part.values for part in parts], axis=0), sum(part.n for part in parts))
