"""What each rule chooses without OOD or transfer data, and what that choice costs against the best in hindsight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from statistics import fmean
from typing import Any

from ood_nc.documents import OOD_GROUPS, is_one_set
from ood_nc.errors import UserError
from ood_nc.evaluation.findings import Found
from ood_nc.evaluation.measurement_plan import Plan
from ood_nc.evaluation.results import reason_of
from ood_nc.evaluation.rules import RECOMMENDED, RULES, Evidence, Place, choose
from ood_nc.headline import headline

Row = Mapping[str, Any]

METRICS = {"detection": "fpr95_id_positive", "transfer": "accuracy"}
"""What a choice is judged by: errors are to be low, accuracies high."""


def make_choices(rows: Iterable[Row], evidence: Evidence) -> list[dict[str, Any]]:
    """Follow every rule, then look at the tests.

    The value of a tap and method is its mean over the near and far OOD sets, or over the transfer sets. The best is the
    best of all taps and methods **on the test sets**: it is picked in hindsight and too good to expect again.

    Args:
        rows: the long table of one run, of one protocol.
        evidence: what the rules may know.

    Returns:
        A dictionary a rule: ``task, rule, text, recommended, metric, chosen_tap, method`` (chosen), ``best_tap,
        best_method`` (in hindsight), ``value_chosen, value_best, value_mean`` (over all candidates, what a blind choice
        has), ``regret`` (how much worse the chosen is than the best, >= 0), ``reason``; undefined values are None.
    """
    rows = [row for row in rows if row["value"] is not None]
    choices: list[dict[str, Any]] = []
    for task, metric in METRICS.items():
        values = _values(rows, task, metric, evidence.methods[task])
        if not evidence.methods[task]:
            continue
        found = {name: _choice(task, name, evidence, values) for name in RULES[task]}
        followed = (name for name in RECOMMENDED[task] if found[name]["chosen_tap"] is not None)
        if (name := next(followed, None)) is not None:
            found[name]["recommended"] = True
        choices += found.values()
    return choices


def evidence_of(plan: Plan, found: Found, rows: Iterable[Row], identity: Mapping[str, Any]) -> Evidence:
    """What the rules of choice may know: nothing of an OOD or a transfer set.

    Args:
        plan: what was measured with.
        found: the scores, and collapse on held-out ID.
        rows: the long table, of one protocol.
        identity: of the results.
    """
    rows = [row for row in rows if row["value"] is not None]
    chosen = headline(identity)
    collapse = {
        (row["dataset"], row["metric"], row["tap"]): row["value"]
        for row in rows
        if (row["kind"], row["dataset"]) == ("collapse", "id_train")
    }
    held_out = {
        ("id_val", name, tap): value for tap, values in found.held_out.items() for name, value in values.items()
    }
    return Evidence(
        taps=list(dict.fromkeys([*plan.taps, *(row["tap"] for row in rows)])),
        methods={"detection": plan.detectors, "transfer": plan.probes},
        headline={
            "detection": (chosen.detection_tap, next(iter(chosen.detectors), "")),
            "transfer": (chosen.transfer_tap, chosen.probe or ""),
        },
        collapse=collapse | held_out,
        id_accuracy={
            row["tap"]: row["value"]
            for row in rows
            if (row["kind"], row["method"], row["metric"]) == ("accuracy", "linear", "accuracy")
        },
        scores=found.scores,
    )


def _choice(task: str, name: str, evidence: Evidence, values: Mapping[Place, float]) -> dict[str, Any]:
    rule, chosen, reason = RULES[task][name], None, None
    try:
        chosen = choose(rule, evidence)
    except UserError as error:
        reason = reason_of(error)
    sign = 1 if task == "detection" else -1
    best = min(values, key=lambda place: sign * values[place], default=None)
    value = None if chosen is None else values.get(chosen)
    if chosen is not None and value is None:
        reason = f"{chosen[1]} is undefined on {chosen[0]}" if values else "there is no set to judge by"
    return {
        "task": task,
        "rule": name,
        "text": rule.text,
        "recommended": False,
        "metric": METRICS[task],
        "chosen_tap": chosen and chosen[0],
        "method": chosen and chosen[1],
        "best_tap": best and best[0],
        "best_method": best and best[1],
        "value_chosen": value,
        "value_best": None if best is None else values[best],
        "value_mean": fmean(values.values()) if values else None,
        "regret": None if value is None or best is None else sign * (value - values[best]),
        "reason": reason,
    }


def _values(rows: list[Row], task: str, metric: str, methods: Collection[str]) -> dict[Place, float]:
    """The mean over sets of every tap and method."""
    found: dict[Place, dict[str, float]] = {}
    for row in rows:
        wanted = row["kind"] == task and row["metric"] == metric and row["method"] in methods and is_one_set(row)
        if wanted and (task == "transfer" or row["group"] in OOD_GROUPS):
            found.setdefault((row["tap"], row["method"]), {})[row["dataset"]] = row["value"]
    # One that misses a set would be compared on easier or harder ground: the most sets, and of those what most have.
    grounds = Counter(frozenset(by_set) for by_set in found.values())
    ground = max(grounds, key=lambda sets: (len(sets), grounds[sets]), default=None)
    return {place: fmean(by_set.values()) for place, by_set in found.items() if by_set.keys() == ground}
