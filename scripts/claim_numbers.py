"""The runs of docs/claim, and the numbers that configs/claim/preregistration.md fixes: measures, pairs, intervals."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

ROOT = Path(__file__).parent.parent
CURVE_RESULTS = ROOT / "docs" / "claim" / "curves"
RESULTS, PAGE = ROOT / "docs" / "claim" / "results", ROOT / "docs" / "claim.md"
ARMS = ("baseline", "baseline_ws", "entropy", "projector", "both", "random", "trainable")
REFERENCES = ("baseline_ws", "baseline")
ERROR = {"strict": "fpr95_id_positive", "paper": "fpr95_paper"}
WAYS = ("entropy_layers", "decorrelated", "collapsed_projector", "orthonormal_narrow", "warm")
OTHERS = ("logit_norm", "t2fnorm", "etf_head", "deep_supervision", "outlier_exposure", "supervised_contrastive")
SMALL = ("both", "projector", "baseline_ws", *WAYS, *OTHERS)
SETS = {"fashion": 4, "cifar": 4, "wide": 4, "small": 4}
"""How many OOD and transfer sets a suite has."""

Row = dict[str, str]
Measure = Callable[["Run"], "float | None"]


class Run(NamedTuple):
    """The rows of one run."""

    suite: str
    arm: str
    seed: int
    rows: list[Row]

    def values(self, **wanted: str) -> dict[str, float]:
        """The defined values of the rows with these columns, by data set."""
        found = [row for row in self.rows if all(row[key] == value for key, value in wanted.items())]
        return {row["dataset"]: float(row["value"]) for row in found if row["value"]}

    def taps(self, protocol: str) -> list[str]:
        """The taps in depth order."""
        depths = {row["tap"]: int(row["depth"]) for row in self.rows if row["protocol"] == protocol}
        return sorted(depths, key=depths.__getitem__)

    def nc1(self, protocol: str, tap: str) -> float:
        """NC1 by the pseudo-inverse, on ID train."""
        found = self.values(protocol=protocol, tap=tap, metric="nc1_pinv", dataset="id_train")
        return found["id_train"]

    def place(self, protocol: str, where: str) -> str:
        """The tap that a headline reads: the paper's, the encoder, or the most collapsed one."""
        if where == "most collapsed":
            return min(self.taps(protocol), key=lambda tap: self.nc1(protocol, tap), default="encoder")
        return "projector" if where == "paper's tap" and "projector" in self.taps(protocol) else "encoder"

    def detection(self, protocol: str, tap: str, method: str, metric: str | None = None) -> float | None:
        """The mean over the OOD sets; None where one is missing."""
        metric = metric or ERROR[protocol]
        found = self.values(protocol=protocol, tap=tap, kind="detection", method=method, metric=metric)
        return fmean(found.values()) if len(found) == SETS[self.suite] else None

    def transfer(self, protocol: str, tap: str) -> float | None:
        """One minus the mean accuracy over the transfer sets, the folds of one set averaged first."""
        found = self.values(protocol=protocol, tap=tap, kind="transfer", method="linear", metric="accuracy")
        sets: dict[str, list[float]] = {}
        for name, value in found.items():
            sets.setdefault(name.partition(" (fold")[0], []).append(value)
        return 1 - fmean(map(fmean, sets.values())) if len(sets) == SETS[self.suite] else None

    def accuracy(self, dataset: str = "id_test") -> float:
        """The head's accuracy on ID test, or on clean ID train."""
        return self.values(kind="accuracy", method="head", metric="accuracy", dataset=dataset)[dataset]


class Paired(NamedTuple):
    """The mean of differences paired by seed, with a 95 % interval where there are two or more."""

    mean: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        text = f"{100 * self.mean:+.1f}"
        if self.seeds < 2:
            return f"{text} (1 seed)"
        return f"{text} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"


def load(folder: Path = RESULTS) -> list[Run]:
    """Every run that is measured."""
    runs = []
    for path in sorted(folder.glob("*.csv")):
        suite, arm, seed = path.stem.split("-")
        with path.open(newline="") as file:
            runs.append(Run(suite, arm, int(seed.removeprefix("seed")), list(csv.DictReader(file))))
    return runs


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and Student's 95 % interval; the ends are NaN for one value."""
    mean = fmean(values)
    if len(values) < 2:
        return mean, math.nan, math.nan
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def paired(runs: Iterable[Run], suite: str, arm: str, reference: str, measure: Measure) -> Paired | None:
    """Arm minus reference over the seeds that both have."""
    by_arm: dict[str, dict[int, float]] = {arm: {}, reference: {}}
    for run in runs:
        if run.suite == suite and run.arm in by_arm and (value := measure(run)) is not None:
            by_arm[run.arm][run.seed] = value
    seeds = sorted(set(by_arm[arm]) & set(by_arm[reference]))
    if not seeds:
        return None
    return Paired(*interval([by_arm[arm][seed] - by_arm[reference][seed] for seed in seeds]), len(seeds))


def correlation(runs: Sequence[Run], protocol: str, error: str, *, log: bool) -> tuple[str, int]:
    """Pearson's r of NC1 with an error over all taps of all arms of a seed; mean and interval over seeds by Fisher's z.

    Taps whose values are the same in all that is correlated count once.
    """
    transformed = []
    for seed in sorted({run.seed for run in runs}):
        points = set()
        for run in (run for run in runs if run.seed == seed):
            for tap in run.taps(protocol):
                y = run.detection(protocol, tap, "energy") if error == "detection" else run.transfer(protocol, tap)
                if y is not None:
                    x = run.nc1(protocol, tap)
                    points.add((run.arm, math.log(x) if log else x, y))
        if len(points) > 3:
            x, y = np.array([point[1:] for point in points]).T
            transformed.append(math.atanh(float(np.corrcoef(x, y)[0, 1])))
    if not transformed:
        return "-", 0
    mean, low, high = map(math.tanh, interval(transformed))
    ends = "" if math.isnan(low) else f" [{low:+.2f}, {high:+.2f}]"
    return f"{mean:+.2f}{ends}", len(transformed)


def headlines(protocol: str) -> dict[str, Measure]:
    """The measures fixed beforehand, by what they are called."""
    found: dict[str, Measure] = {}
    for method in ("knn", "energy") if protocol == "strict" else ("energy",):
        for where in ("paper's tap", "encoder", "most collapsed"):
            found[f"FPR95, {'k-NN' if method == 'knn' else method}, {where}"] = at_place(protocol, where, method)
    found["transfer error, encoder"] = lambda run: run.transfer(protocol, "encoder")
    return found


def at_place(protocol: str, where: str, method: str) -> Measure:
    """The detection error by a method at a headline's tap."""
    return lambda run: run.detection(protocol, run.place(protocol, where), method)


def percent(values: Sequence[float | None]) -> str:
    """The mean in percent, with the spread over seeds."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    return f"{100 * fmean(known):.1f}" + (f" ± {100 * stdev(known):.1f}" if len(known) > 1 else "")
