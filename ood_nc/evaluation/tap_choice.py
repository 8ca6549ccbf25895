"""The taps that collapse alone would choose for detection and for transfer, and what that choice costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

from ood_nc.documents import OOD_GROUPS, is_one_set
from ood_nc.evaluation.collapse_relations import COLLAPSE_SPLIT

Row = Mapping[str, Any]

COLLAPSE_METRIC = "nc1_pinv"

ACCURACY_FLOOR = 0.9
"""The tap for transfer keeps at least this share of the best tap's probe accuracy on held-out ID."""

_DETECTION_RULE = f"lowest {COLLAPSE_METRIC} on ID train"
_TRANSFER_RULE = (
    f"highest {COLLAPSE_METRIC} on ID train among the taps whose ID probe reaches "
    f"{ACCURACY_FLOOR:.0%} of the best tap's accuracy"
)


def choose_taps(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Choose a tap by collapse alone, without OOD or transfer data, and compare it with the best tap in hindsight.

    Detection takes the most collapsed tap, transfer the least collapsed one that still knows the ID classes
    (`ACCURACY_FLOOR`). The value of a tap is the mean over the OOD or transfer sets.

    Args:
        rows: the long table of one run.

    Returns:
        A dictionary for each task and method: ``task, method, metric, chosen_tap, best_tap, value_chosen, value_best,
        regret`` (how much worse the chosen tap is, >= 0), ``rule, reason``; undefined values are None.
    """
    rows = [row for row in rows if row["value"] is not None]
    collapse = {
        row["tap"]: row["value"]
        for row in rows
        if row["kind"] == "collapse" and row["dataset"] == COLLAPSE_SPLIT and row["metric"] == COLLAPSE_METRIC
    }
    detection_tap = min(collapse, key=collapse.__getitem__, default=None)
    transfer_tap = max(_above_floor(rows, collapse), key=collapse.__getitem__, default=None)
    return [
        *_choices(rows, "detection", "fpr95_id_positive", detection_tap, _DETECTION_RULE),
        *_choices(rows, "transfer", "accuracy", transfer_tap, _TRANSFER_RULE),
    ]


def _above_floor(rows: list[Row], collapse: Mapping[str, float]) -> list[str]:
    accuracy = {
        row["tap"]: row["value"]
        for row in rows
        if (row["kind"], row["method"], row["metric"]) == ("accuracy", "linear", "accuracy") and row["tap"] in collapse
    }
    floor = ACCURACY_FLOOR * max(accuracy.values(), default=0.0)
    return [tap for tap, value in accuracy.items() if value >= floor]


def _choices(rows: list[Row], task: str, metric: str, chosen: str | None, rule: str) -> list[dict[str, Any]]:
    """One choice a method; errors are to be low, accuracies high."""
    table: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        wanted = row["kind"] == task and row["metric"] == metric and row["tap"] is not None and is_one_set(row)
        if wanted and (task == "transfer" or row["group"] in OOD_GROUPS):
            table.setdefault(row["method"], {}).setdefault(row["tap"], []).append(row["value"])
    # What combines the taps, or reads the whole network, leaves no tap to choose.
    several = any(len(by_tap) > 1 for by_tap in table.values())
    return [
        _choice(task, method, metric, by_tap, chosen, rule)
        for method, by_tap in table.items()
        if len(by_tap) > 1 or not several
    ]


def _choice(
    task: str, method: str, metric: str, by_tap: Mapping[str, list[float]], chosen: str | None, rule: str
) -> dict[str, Any]:
    # A tap that misses a set would be compared on easier or harder ground.
    most = max(map(len, by_tap.values()))
    values = {tap: fmean(found) for tap, found in by_tap.items() if len(found) == most}
    sign = 1 if task == "detection" else -1
    best = min(values, key=lambda tap: sign * values[tap])
    value = values.get(chosen or "")
    missing = "collapse is undefined on every tap" if chosen is None else f"undefined on {chosen}"
    return {
        "task": task,
        "method": method,
        "metric": metric,
        "chosen_tap": chosen,
        "best_tap": best,
        "value_chosen": value,
        "value_best": values[best],
        "regret": None if value is None else sign * (value - values[best]),
        "rule": rule,
        "reason": missing if value is None else None,
    }
