"""Computes docs/claim.md from docs/claim/results, by the rules of configs/claim/preregistration.md.

python scripts/claim_report.py
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

import yaml
from claim_numbers import (
    ARMS,
    CURVE_RESULTS,
    ERROR,
    PAGE,
    REFERENCES,
    RESULTS,
    ROOT,
    SETS,
    SMALL,
    WAYS,
    Measure,
    Paired,
    Run,
    at_place,
    correlation,
    headlines,
    load,
    paired,
    percent,
)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


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

    at_papers_tap = {protocol: at_place(protocol, "paper's tap", "energy") for protocol in ERROR}
    knn, energy = (at_place("strict", "encoder", method) for method in ("knn", "energy"))
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
    if by_arm["random"]:
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


def gate(runs: Sequence[Run], needed: float = 0.75) -> str | None:
    """Whether the reference of CIFAR-10 can detect anything, as the preregistration asks first."""
    reference = [run for run in runs if (run.suite, run.arm, run.seed) == ("cifar", "baseline_ws", 0)]
    found = [
        (value, method, dataset)
        for run in reference
        for method in ("energy", "knn", "mahalanobis")
        for dataset, value in run.values(protocol="strict", tap="encoder", method=method, metric="auroc").items()
    ]
    if not found:
        return None
    value, method, dataset = max(found)
    return (
        f"The gate of the preregistration, AUROC {needed} of `baseline_ws` (seed 0) on some set, is "
        f"{'passed' if value >= needed else 'not passed'}: at most {value:.3f}, by {method} on {dataset}.\n"
    )


def suite_sections(runs: Sequence[Run], suite: str) -> Iterable[str]:
    """The tables of one suite."""
    inside = [run for run in runs if run.suite == suite]
    arms = [arm for arm in ARMS if any(run.arm == arm for run in inside)]
    if (passed := gate(inside)) is not None:
        yield passed
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


def small(runs: Sequence[Run]) -> Iterable[str]:
    """Ways to be ahead of `both`, and what others do: each arm, and each minus its reference."""
    measures = {
        "FPR95, k-NN, paper's tap": at_place("strict", "paper's tap", "knn"),
        "FPR95, energy, paper's tap": at_place("strict", "paper's tap", "energy"),
        "FPR95, k-NN, encoder": at_place("strict", "encoder", "knn"),
        "transfer error, encoder": headlines("strict")["transfer error, encoder"],
        "ID accuracy (higher is better)": Run.accuracy,
    }
    by_arm: dict[str, list[Run]] = {}
    for run in runs:
        by_arm.setdefault(run.arm, []).append(run)
    rows = [
        [
            f"`{arm}`",
            len(found),
            nc1_cell(found, "encoder"),
            *(percent(list(map(one, found))) for one in measures.values()),
        ]
        for arm in SMALL
        if (found := by_arm.get(arm))
    ]
    yield table(["arm", "seeds", "NC1 encoder", *measures], rows)
    for reference in ("both", "baseline_ws"):
        rows, ahead = [], []
        for arm in (arm for arm in SMALL if arm != reference and arm in by_arm):
            found = [paired(runs, "small", arm, reference, one) for one in measures.values()]
            rows.append([f"`{arm}`", *(one or "-" for one in found)])
            detection, transfer, accuracy = found[0], found[3], found[4]
            if (
                detection
                and transfer
                and accuracy
                and max(detection.high, transfer.high) < 0
                and accuracy.mean >= -0.01
            ):
                ahead.append(arm)
        yield table([f"minus `{reference}`", *measures], rows)
        if reference == "both":
            ways, others = (", ".join(f"`{arm}`" for arm in ahead if (arm in WAYS) is way) for way in (True, False))
            yield f"Ahead of `both` at both ends by the rule, of the five ways: {ways or 'none'}."
            yield f"Of the others, for which no rule was fixed: {others or 'none'}.\n"


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


CURVES = {
    "loss.entropy_weight": "the weight of the entropy term",
    "data.limit": "images a class",
    "train.epochs": "epochs",
}
"""The settings that the plan's curves change, and what they are called."""
BESIDE = ("strict, FPR95 k-NN", "strict, FPR95 energy", "strict, transfer", "paper, FPR95 energy", "paper, transfer")


def curve(points: Sequence[Run], plans: Sequence[Run], key: str, planned: float) -> str:
    """One setting changed, seed 0: what each arm has at each value, the plan's own (in bold) among them."""
    prefix, rows = key.rpartition(".")[2], []
    named = [(*run.arm.partition(".")[::2], run) for run in points if f".{prefix}=" in run.arm]
    arms = dict.fromkeys(arm for arm, _, _ in named)
    found = [(float(rest.partition("=")[2]), arm, run) for arm, rest, run in named]
    found += [(planned, run.arm, run) for run in plans if run.arm in arms and run.seed == 0]
    if key == "loss.entropy_weight":  # weight 0 is an arm of its own
        without = {"projector": "both", "baseline_ws": "entropy"}
        found += [(0.0, without[run.arm], run) for run in plans if run.arm in without and run.seed == 0]
    for value, arm, run in sorted(found, key=lambda one: (one[0], ARMS.index(one[1]))):
        at = "projector" if "projector" in run.taps("paper") else "encoder"
        measures = [
            run.detection("strict", "encoder", "knn"),
            run.detection("strict", "encoder", "energy"),
            run.transfer("strict", "encoder"),
            run.detection("paper", at, "energy"),
            run.transfer("paper", "encoder"),
        ]
        rows.append(
            [
                f"**{value:g}**" if value == planned else f"{value:g}",
                f"`{arm}`",
                percent([run.accuracy()]),
                percent([run.accuracy("id_train")]),
                *(nc1_cell([run], tap) for tap in ("encoder", "projector")),
                *(percent([one]) for one in measures),
            ]
        )
    return table([CURVES[key], "arm", "ID", "clean train", "NC1 encoder", "NC1 projector", *BESIDE], rows)


def curves(plans: Sequence[Run]) -> Iterable[str]:
    """The curves of the plan that are measured."""
    points = load(CURVE_RESULTS)
    content = yaml.safe_load((ROOT / "configs" / "claim" / "plan.yaml").read_text())
    for stage in content["curves"]:
        suite, key = stage["suite"], stage["key"]
        of_suite = [run for run in points if run.suite == suite and f".{key.rpartition('.')[2]}=" in run.arm]
        if of_suite:
            yield f"### {suite}: {CURVES[key]} (one seed)\n"
            yield curve(of_suite, [run for run in plans if run.suite == suite], key, PLANNED[key])


PLANNED = {"loss.entropy_weight": 0.05, "data.limit": 800, "train.epochs": 25}
"""What the suite `fashion` itself has."""
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
        if not found:
            continue
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
    for suite in SETS:
        inside = [run for run in runs if run.suite == suite]
        parts.append(f"## {suite}\n")
        if not inside:
            parts.append("Not yet run.\n")
            continue
        if suite == "small":
            parts += small(inside)
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
        if suite == "fashion":
            parts += curves(runs)
    if todo:
        parts.append("## Planned and not yet run\n\n" + "\n".join(todo) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(load()))
    print(f"wrote {PAGE}")
