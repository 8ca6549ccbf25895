"""What was chosen without OOD or transfer data, and what that cost: of one run in full, of several as regrets."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from ood_nc.report.documents import Row, Run
from ood_nc.report.glossary import metric
from ood_nc.report.tables import Table, cell

BLIND = "(blind)"
"""The regret of a choice at random: the mean over all taps and methods."""


def choice_table(choices: Sequence[Row]) -> list[Table]:
    """A row a rule of one run: what it chose, what that and the best in hindsight reached."""
    lines = []
    # Choices of an earlier version have no rule that is known by name.
    for choice in (choice for choice in choices if "best_method" in choice):
        unit = metric(choice["metric"]).unit
        shown = {
            name: cell({"value": choice[name], "reason": choice["reason"]}, unit)
            for name in ("value_chosen", "value_best", "value_mean", "regret")
        }
        lines.append({**choice, **shown, "label": metric(choice["metric"]).label})
    return lines


def regret_table(by_run: Sequence[Sequence[Row]]) -> list[Table]:
    """A row a task and rule: over the runs that have its regret, how many, their mean and the worst.

    Within a task the least mean comes first; among the rules is `BLIND`.
    """
    found: dict[tuple[str, str], tuple[Row, list[float]]] = {}
    for choices in by_run:
        for choice in (choice for choice in choices if choice.get("regret") is not None and "best_method" in choice):
            found.setdefault((choice["task"], choice["rule"]), (choice, []))[1].append(choice["regret"])
            if choice["rule"] == "headline":
                blind = {**choice, "rule": BLIND, "text": "any tap and method", "recommended": False}
                regret = abs(choice["value_mean"] - choice["value_best"])
                found.setdefault((choice["task"], BLIND), (blind, []))[1].append(regret)
    lines = [
        {**choice, "runs": len(values), "mean": fmean(values), "worst": max(values)}
        for choice, values in found.values()
    ]
    return sorted(lines, key=lambda line: (line["task"], line["mean"]))


def recommendations(runs: Sequence[Run]) -> list[Table]:
    """Of every run the detector and tap that are recommended, by which rule, and the command that fits them."""
    return [
        {
            "run": run.name,
            "text": f"{choice['method']} on {choice['chosen_tap']}, by the rule {choice['rule']}",
            "command": run.identity.get("fit"),
        }
        for run in runs
        for choice in run.choices
        if choice["task"] == "detection" and choice.get("recommended")
    ]


def rules(runs: Sequence[Run]) -> list[tuple[str, str, str]]:
    """Task, name and meaning of every rule that was followed."""
    found = (
        (choice["task"], choice["rule"], choice["text"]) for run in runs for choice in run.choices if "text" in choice
    )
    return list(dict.fromkeys(found))
