"""Computes docs/claim.md from docs/claim/results, by the rules of configs/claim/preregistration.md.

python scripts/claim_report.py
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np
import yaml
from scipy.stats import t as student

ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "docs" / "claim" / "results", ROOT / "docs" / "claim.md"
ARMS = ("baseline", "baseline_ws", "entropy", "projector", "both", "random", "trainable")
REFERENCES = ("baseline_ws", "baseline")
ERROR = {"strict": "fpr95_id_positive", "paper": "fpr95_paper"}
SETS = {"fashion": 4, "cifar": 4}

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
            found[f"FPR95, {'k-NN' if method == 'knn' else method}, {where}"] = _detection(protocol, where, method)
    found["transfer error, encoder"] = lambda run: run.transfer(protocol, "encoder")
    return found


def _detection(protocol: str, where: str, method: str) -> Measure:
    return lambda run: run.detection(protocol, run.place(protocol, where), method)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def percent(values: Sequence[float | None]) -> str:
    """The mean in percent, with the spread over seeds."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    return f"{100 * fmean(known):.1f}" + (f" ± {100 * stdev(known):.1f}" if len(known) > 1 else "")


def missing() -> list[str]:
    """The planned runs that are not measured, a line an arm."""
    content = yaml.safe_load((ROOT / "configs" / "claim" / "plan.yaml").read_text())
    seeds: dict[tuple[str, str], list[int]] = {}
    for stage in content["order"]:
        for arm in stage["arms"]:
            there = [
                seed for seed in stage["seeds"] if not (RESULTS / f"{stage['suite']}-{arm}-seed{seed}.csv").exists()
            ]
            seeds.setdefault((stage["suite"], arm), []).extend(there)
    return [f"- {suite}, `{arm}`: seeds {', '.join(map(str, left))}" for (suite, arm), left in seeds.items() if left]


def verdicts(runs: Sequence[Run], suite: str) -> Iterable[str]:
    """One sentence for each arm, reference and protocol: where the claim holds, as fixed beforehand."""
    for protocol in ERROR:
        for reference in REFERENCES:
            for arm in ("projector", "both"):
                found = {name: paired(runs, suite, arm, reference, one) for name, one in headlines(protocol).items()}
                accuracy = paired(runs, suite, arm, reference, Run.accuracy)
                transfer = found.pop("transfer error, encoder")
                if accuracy is None or transfer is None:
                    continue
                if transfer.seeds < 2:
                    yield f"`{arm}` against `{reference}`, {protocol}: one seed, so nothing is shown yet."
                    continue
                lower = [name for name, one in found.items() if one is not None and one.high < 0]
                higher = [name for name, one in found.items() if one is not None and one.low > 0]
                holds = bool(lower) and transfer.high < 0 and accuracy.low >= -0.01
                yield (
                    f"`{arm}` against `{reference}`, {protocol} ({transfer.seeds} seeds): detection error lower in "
                    f"{len(lower)} and higher in {len(higher)} of {len(found)} headlines, transfer error {transfer}, "
                    f"ID accuracy {accuracy}: the claim {'holds for ' + '; '.join(lower) if holds else 'is not shown'}."
                )


def reading(runs: Sequence[Run], suite: str) -> Iterable[str]:
    """What the tables of a suite say together, in sentences whose numbers are computed."""
    by_arm = {arm: [run for run in runs if run.arm == arm] for arm in ARMS}

    def mean(arm: str, protocol: str, tap: str, method: str) -> str:
        return percent([run.detection(protocol, tap, method) for run in by_arm[arm]])

    def change(arm: str, measure: Measure, reference: str = "baseline_ws") -> Paired | str:
        return paired(runs, suite, arm, reference, measure) or "not yet run"

    def changes(measure: Measure) -> str:
        return f"{change('projector', measure)} (`projector`) and {change('both', measure)} (`both`)"

    at_papers_tap = {protocol: _detection(protocol, "paper's tap", "energy") for protocol in ERROR}
    knn, energy = (_detection("strict", "encoder", method) for method in ("knn", "energy"))
    transfer = {protocol: headlines(protocol)["transfer error, encoder"] for protocol in ERROR}
    yield (
        "**Under the paper's protocol**, against `baseline_ws`, FPR95 at the paper's tap changes by "
        f"{changes(at_papers_tap['paper'])}, the transfer error by {changes(transfer['paper'])}."
    )
    ws = [mean("baseline_ws", protocol, "encoder", "energy") for protocol in ("paper", "strict")]
    ours = [mean("projector", protocol, "projector", "energy") for protocol in ("paper", "strict")]
    yield (
        "**How much of that is the place where the protocol reads the baseline?** The same `baseline_ws` networks have "
        f"FPR95 {ws[0]} by energy before the last norm with a fresh probe, and {ws[1]} behind it with their own head; "
        f"`projector` at its projector has {ours[0]} and {ours[1]}."
    )
    yield (
        f"**Under the strict protocol** k-NN at the encoder changes by {changes(knn)}, energy there by "
        f"{changes(energy)}, the transfer error by {changes(transfer['strict'])}."
    )
    earlier = [mean(arm, "strict", tap, "knn") for arm in ("baseline_ws", "projector") for tap in ("block5", "encoder")]
    yield (
        f"**One layer earlier**, at the input of the last convolution, `baseline_ws` has FPR95 {earlier[0]} by k-NN, "
        f"at its encoder {earlier[1]}; `projector` has {earlier[2]} and {earlier[3]}."
    )
    yield (
        "**The frame or mere depth?** `projector` minus `random`, a frozen Gaussian projector: k-NN at the encoder "
        f"{change('projector', knn, 'random')}, energy at the projector "
        f"{change('projector', at_papers_tap['strict'], 'random')}, transfer error "
        f"{change('projector', transfer['strict'], 'random')}; minus `trainable`: k-NN at the encoder "
        f"{change('projector', knn, 'trainable')}."
    )
    methods = ("knn", "energy", "mahalanobis")
    arms = [arm for arm in ARMS if by_arm[arm]]
    choices = [(arm, tap, method) for arm in arms for tap in by_arm[arm][0].taps("strict") for method in methods]
    errors = {
        one: fmean(1.0 if (e := run.detection("strict", *one[1:])) is None else e for run in by_arm[one[0]])
        for one in choices
    }
    arm, tap, method = min(errors, key=errors.__getitem__)
    yield (
        f"In hindsight, chosen on the test sets, the lowest FPR95 is {mean(arm, 'strict', tap, method)}: "
        f"{method} at {tap} of `{arm}`."
    )


def suite_sections(runs: Sequence[Run], suite: str) -> Iterable[str]:
    """The tables of one suite."""
    inside = [run for run in runs if run.suite == suite]
    arms = [arm for arm in ARMS if any(run.arm == arm for run in inside)]
    yield "\n".join(f"- {sentence}" for sentence in reading(inside, suite)) + "\n"
    yield "Where the claim, as it was fixed beforehand, holds:\n"
    yield "\n".join(f"- {sentence}" for sentence in verdicts(inside, suite)) + "\n"
    for protocol in ERROR:
        yield f"### {suite}, protocol `{protocol}`: arm minus reference, points [95 % over seeds]\n"
        for reference in (name for name in REFERENCES if name in arms):
            others = [arm for arm in arms if arm != reference]
            rows = [
                [name, *(paired(inside, suite, arm, reference, one) or "-" for arm in others)]
                for name, one in [*headlines(protocol).items(), ("ID accuracy (higher is better)", Run.accuracy)]
            ]
            yield table([f"minus `{reference}`", *(f"`{arm}`" for arm in others)], rows)
    yield f"### {suite}: every tap, means over the seeds there are (± standard deviation)\n"
    for protocol in ERROR:
        yield tap_table(inside, arms, protocol)


def tap_table(runs: Sequence[Run], arms: Sequence[str], protocol: str) -> str:
    """Every tap of every arm."""
    methods = ("knn", "energy", "mahalanobis") if protocol == "strict" else ("energy",)
    rows = []
    for arm in arms:
        of_arm = [run for run in runs if run.arm == arm]
        for tap in of_arm[0].taps(protocol):
            cells = [f"{fmean(run.nc1(protocol, tap) for run in of_arm):.3g}"]
            cells += [percent([run.detection(protocol, tap, method) for run in of_arm]) for method in methods]
            cells.append(percent([run.transfer(protocol, tap) for run in of_arm]))
            rows.append([f"`{arm}`", tap, *cells])
    head = ["arm", f"tap (`{protocol}`)", "NC1", *(f"FPR95 {name}" for name in methods), "transfer error"]
    return table(head, rows)


STEPS = (
    ("batch norm, last convolution before its norm, fresh probe (published baseline)", "baseline", "paper", "encoder"),
    ("batch norm, pooled output, its own head", "baseline", "strict", "encoder"),
    ("group norm, last convolution before its norm, fresh probe", "baseline_ws", "paper", "encoder"),
    ("group norm, pooled output, its own head", "baseline_ws", "strict", "encoder"),
    ("group norm, one layer earlier, fresh probe", "baseline_ws", "strict", "block5"),
    ("both, at the projector, fresh probe (published ours)", "both", "paper", "projector"),
    ("both, at the projector, its own head", "both", "strict", "projector"),
    ("projector only, at the projector, its own head", "projector", "strict", "projector"),
    ("projector only, pooled output, fresh probe", "projector", "strict", "encoder"),
)
"""From the published baseline to the published method, one change at a time."""


def steps(runs: Sequence[Run]) -> str:
    """What the protocol, the tap, the normalisation and the method each do to the same score."""
    rows = []
    for text, arm, protocol, tap in STEPS:
        found = [run for run in runs if run.arm == arm]
        rows.append(
            [
                text,
                f"`{arm}`",
                *(
                    percent([one(run) for run in found])
                    for one in (
                        lambda run, at=(protocol, tap): run.detection(*at, "energy"),
                        lambda run, at=(protocol, tap): run.transfer(*at),
                    )
                ),
            ]
        )
    return table(["what is scored, by energy", "arm", "FPR95", "transfer error there"], rows)


def nc1_cell(runs: Sequence[Run], tap: str) -> str:
    """The mean NC1 of a tap, where the arm has it."""
    return f"{fmean(run.nc1('strict', tap) for run in runs):.3g}" if tap in runs[0].taps("strict") else "-"


def page(runs: Sequence[Run]) -> str:
    """The whole page."""
    parts = [(ROOT / "docs" / "claim" / "introduction.md").read_text()]
    todo = missing()
    for suite in ("fashion", "cifar"):
        inside = [run for run in runs if run.suite == suite]
        parts.append(f"## {suite}\n")
        if not inside:
            parts.append("Not yet run.\n")
            continue
        rows = [
            [
                f"`{arm}`",
                len(seeds),
                percent([run.accuracy() for run in seeds]),
                percent([run.accuracy("id_train") for run in seeds]),
                *(nc1_cell(seeds, tap) for tap in ("encoder", "projector")),
            ]
            for arm in ARMS
            if (seeds := [run for run in inside if run.arm == arm])
        ]
        parts.append(
            table(["arm", "seeds", "ID accuracy", "clean train accuracy", "NC1 encoder", "NC1 projector"], rows)
        )
        parts += suite_sections(runs, suite)
        parts.append(f"### {suite}: what the protocol, the tap, the normalisation and the method each do\n")
        parts.append(steps(inside))
        parts.append(f"### {suite}: NC1 against error over taps (published: detection +.77, transfer -.60)\n")
        lines = []
        for protocol in ERROR:
            for error in ("detection", "transfer"):
                cells = [correlation(inside, protocol, error, log=log) for log in (False, True)]
                lines.append([protocol, error, *(cell[0] for cell in cells), cells[0][1]])
        parts.append(table(["protocol", "error", "r with NC1", "r with log NC1", "seeds"], lines))
    if todo:
        parts.append("## Planned and not yet run\n\n" + "\n".join(todo) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(load()))
    print(f"wrote {PAGE}")
