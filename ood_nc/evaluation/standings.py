"""Where each run, or group of seeds, stands: the headline's numbers, what is best within noise, and the Pareto front.

All runs are read on the images that all of them have, resampled together, so the difference of any two is paired.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ood_nc.documents import OOD_GROUPS
from ood_nc.evaluation.common_samples import COMPARED, ID, Array, CommonSamples
from ood_nc.evaluation.results import Results
from ood_nc.evaluation.scores_table import Set, correct_column, score_column
from ood_nc.headline import headline
from ood_nc.scores import nested_means, percentile_interval

Group = Mapping[int, Results]
"""Results by seed."""
Key = tuple[str, str]
"""A measure and the method it is of."""

BETTER_HIGH = frozenset({"auroc", "accuracy"})
BESIDE = ("ece", "temperature", "ece_at_temperature")


def standings(
    groups: Mapping[str, Group], *, replicates: int = 500, confidence: float = 0.95, seed: int = 0
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The headline's numbers of every group, and which groups are on the Pareto front.

    Args:
        groups: results by name and seed, all with scores by sample.
        replicates: bootstrap replicates, 0 for no intervals.
        confidence: of the intervals.
        seed: of the resampling.

    Returns:
        A row a group and measure: ``run, seeds, metric, method, value, low, high, best`` (of several groups) and
        ``within_noise`` (no difference from the best is shown; None without an interval or another group). And a row a
        group and detector: ``run, method, detection_error, transfer_error, standing``, which is ``front`` (no other
        has both errors lower), ``within noise of the front`` (others have, but in too few resamples) or ``dominated``;
        and ``by``, the others.
    """
    samples = {(name, one): run.samples() for name, group in groups.items() for one, run in group.items()}
    places = {key: place for place, key in enumerate(samples)}
    common = CommonSamples(list(samples.values()), replicates, seed)
    measured: dict[Key, dict[str, Array]] = {}
    for name, group in groups.items():
        runs = [_measures(common, places[name, one], group[one].identity) for one in sorted(group)]
        for key in runs[0]:
            if all(key in run for run in runs):
                values = nested_means(np.stack([run[key] for run in runs]), seed, confidence)
                measured.setdefault(key, {})[name] = values
    rows = [row for key, by_group in measured.items() for row in _ranked(key, by_group, groups, confidence)]
    return rows + _beside(groups), _fronts(measured, confidence)


def _measures(common: CommonSamples, run: int, identity: Mapping[str, Any]) -> dict[Key, Array]:
    """The headline's numbers of a run: the value, then those of the resamples (1 + R,)."""
    chosen = headline(identity)
    found: dict[Key, Array] = {}
    judged = [one for one in common.ids if one[0] == "ood" and common.groups[one] in OOD_GROUPS]
    for name in chosen.detectors:
        parts = common.detection(run, score_column(chosen.detection_tap, name))
        if judged and all(one in parts for one in judged):
            found |= {(metric, name): np.mean([parts[one][metric] for one in judged], axis=0) for metric in COMPARED}
    sets = [one for one in common.ids if one[0] == "transfer"]
    probe = correct_column(chosen.transfer_tap, chosen.probe or "")
    errors = [1 - value for one in sets if (value := _accuracy(common, run, one, probe)) is not None]
    if errors and len(errors) == len(sets):
        found["transfer_error", chosen.probe or ""] = np.mean(errors, axis=0)
    right = _accuracy(common, run, ID, correct_column(chosen.detection_tap, "head"))
    return found if right is None else {**found, ("accuracy", "head"): right}


def _accuracy(common: CommonSamples, run: int, one: Set, column: str) -> Array | None:
    right = common.column(run, one, column)
    if right is None:
        return None
    right = right.astype(np.float64)
    return np.append(right.mean(), np.array([row @ right for row in common.counts[one]]) / len(right))


def _ranked(
    key: Key, found: Mapping[str, Array], groups: Mapping[str, Group], confidence: float
) -> list[dict[str, Any]]:
    sign = -1 if key[0] in BETTER_HIGH else 1
    best, alone = min(found, key=lambda name: sign * found[name][0]), len(found) == 1
    rows = []
    for name, values in found.items():
        # Few seeds reach further than a share can be.
        low, high = percentile_interval(values[1:].clip(0, 1), confidence)
        apart = percentile_interval(values[1:] - found[best][1:], confidence)
        noise = None if alone or apart[0] is None or apart[1] is None else apart[0] <= 0 <= apart[1]
        row = {"run": name, "seeds": len(groups[name]), "metric": key[0], "method": key[1], "value": float(values[0])}
        rows.append({**row, "low": low, "high": high, "best": name == best and not alone, "within_noise": noise})
    return rows


def _beside(groups: Mapping[str, Group]) -> list[dict[str, Any]]:
    """What stands beside the headline without an interval: calibration of the head, means over seeds."""
    rows = []
    for name, group in groups.items():
        for metric in BESIDE:
            found = [
                row["value"]
                for one in group.values()
                for row in one.select(kind="accuracy", method="head", metric=metric)
            ]
            if len(found) == len(group) and None not in found:
                row = {"run": name, "seeds": len(group), "metric": metric, "method": "head"}
                row |= {"value": float(np.mean(found)), "low": None, "high": None, "best": False, "within_noise": None}
                rows.append(row)
    return rows


def _fronts(measured: Mapping[Key, Mapping[str, Array]], confidence: float) -> list[dict[str, Any]]:
    """The Pareto front of detection against transfer error, for each detector of the headline."""
    transfer = next((by_group for (metric, _), by_group in measured.items() if metric == "transfer_error"), {})
    rows = []
    for (metric, method), detection in measured.items():
        if metric != "fpr95_id_positive":
            continue
        points = {name: np.stack([detection[name], transfer[name]]) for name in detection if name in transfer}
        for name, own in points.items():
            lower = {other: np.asarray((found <= own).all(axis=0)) for other, found in points.items()}
            above = [other for other in points if lower[other][0] and (points[other] < own)[:, 0].any()]
            shown = [other for other in above if own.shape[1] == 1 or lower[other][1:].mean() >= confidence]
            standing = "dominated" if shown else "within noise of the front" if above else "front"
            row = {"run": name, "method": method, "detection_error": float(own[0, 0])}
            rows.append({**row, "transfer_error": float(own[1, 0]), "standing": standing, "by": shown or above})
    return rows
