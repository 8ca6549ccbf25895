"""Rules that choose a tap and a method without OOD or transfer data, each from what ID images show.

A rule gives a merit to what it would choose between; the highest wins, and among equals the deepest tap, then the first
method. What is held out is ``id_val``. Of the tests only the ID probe's accuracy is read, as the floor for transfer.
Agreement is ModelCentrality (Lin et al. 2020) on ranks, as Ma et al. use it to select outlier detectors (*The Need for
Unsupervised Outlier Model Selection*, SIGKDD Explorations 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from ood_nc.errors import UserError
from ood_nc.scores import auroc

Place = tuple[str, str]
"""A tap and a method."""
Merits = dict[Place, float]
Scores = NDArray[np.float64]

MADE_FEATURES, MADE_IMAGES = "made/features", "made/images"
"""The keys of outliers made of held-out ID features at a tap, and of held-out ID images."""

ACCURACY_FLOOR = 0.9
"""The tap for transfer keeps at least this share of the best tap's probe accuracy on ID."""


@dataclass(frozen=True)
class Evidence:
    """What may be known before a test set is read.

    Attributes:
        taps: in depth order.
        methods: by task, what is chosen between: the detectors that one tap can be scored by, the probes.
        headline: tap and method that stand for the run in detection, and those in transfer.
        collapse: by data set (``id_train``, ``id_val``), metric and tap.
        id_accuracy: of each tap's linear ID probe.
        scores: by tap and detector, the scores on ``id_val``, `MADE_FEATURES` and `MADE_IMAGES`.
    """

    taps: Sequence[str]
    methods: Mapping[str, Sequence[str]]
    headline: Mapping[str, Place]
    collapse: Mapping[tuple[str, str, str], float]
    id_accuracy: Mapping[str, float]
    scores: Mapping[str, Mapping[str, Mapping[str, Scores]]]


@dataclass(frozen=True)
class Rule:
    """How a tap and a method are chosen.

    Attributes:
        text: what is chosen, in words.
        merits: what speaks for each candidate; raises a `UserError` where the rule lacks what it needs.
    """

    text: str
    merits: Callable[[Evidence], Merits]


def choose(rule: Rule, evidence: Evidence) -> Place:
    """The tap and method that a rule chooses.

    Raises:
        UserError: the rule lacks what it needs; the message says what.
    """
    merits = rule.merits(evidence)
    order = {tap: depth for depth, tap in enumerate(evidence.taps)}
    return max(merits, key=lambda place: (merits[place], order[place[0]]))


def _headline(task: str) -> Rule:
    return Rule("the headline, fixed beforehand", lambda evidence: {evidence.headline[task]: 0.0})


def _collapse(task: str, split: str, metric: str) -> Rule:
    where = "ID train" if split == "id_train" else "held-out ID"
    if task == "detection":
        text = f"lowest {metric} on {where}, by the headline's detector"
        return Rule(text, lambda evidence: _by_collapse(evidence, task, split, metric, -1.0))
    share = f"taps whose ID probe reaches {ACCURACY_FLOOR:.0%} of the best tap's accuracy"
    text = f"highest {metric} on {where} among the {share}, by the headline's probe"
    return Rule(text, lambda evidence: _by_collapse(evidence, task, split, metric, 1.0))


def _by_collapse(evidence: Evidence, task: str, split: str, metric: str, sign: float) -> Merits:
    method = evidence.headline[task][1]
    values = {tap: value for (on, name, tap), value in evidence.collapse.items() if (on, name) == (split, metric)}
    if task == "transfer":
        floor = ACCURACY_FLOOR * max(evidence.id_accuracy.values(), default=0.0)
        values = {tap: values[tap] for tap in values if evidence.id_accuracy.get(tap, -1.0) >= floor}
    if not values:
        raise UserError(f"{metric} on {'ID train' if split == 'id_train' else 'held-out ID'} is undefined on every tap")
    return {(tap, method): sign * value for tap, value in values.items()}


def _against_outliers(key: str) -> Callable[[Evidence], Merits]:
    def merits(evidence: Evidence) -> Merits:
        found = {
            (tap, name): auroc(scores["id_val"], scores[key])
            for tap, by_name in evidence.scores.items()
            for name, scores in by_name.items()
            # Scores that are NaN cost their detector the choice, not all others theirs.
            if all(of in scores and not np.isnan(scores[of]).any() for of in ("id_val", key))
        }
        if not found:
            raise UserError("no ID images are held out, or none can be made into outliers")
        return found

    return merits


def _agreement(evidence: Evidence) -> Merits:
    """Mean Spearman correlation of each candidate's scores on held-out ID with those of all others."""
    found = {
        (tap, name): rankdata(scores["id_val"])
        for tap, by_name in evidence.scores.items()
        for name, scores in by_name.items()
        if "id_val" in scores and np.ptp(scores["id_val"]) > 0
    }
    if len(found) < 3:
        raise UserError("fewer than three detectors have scores on held-out ID")
    table = np.corrcoef(np.stack(list(found.values())))
    return {place: float((row.sum() - 1) / (len(found) - 1)) for place, row in zip(found, table, strict=True)}


RULES: dict[str, dict[str, Rule]] = {
    "detection": {
        "headline": _headline("detection"),
        "nc1_train": _collapse("detection", "id_train", "nc1_pinv"),
        "nc1_held_out": _collapse("detection", "id_val", "nc1_pinv"),
        "vci_held_out": _collapse("detection", "id_val", "vci"),
        "made_features": Rule(
            "highest AUROC of held-out ID against outliers made of its features", _against_outliers(MADE_FEATURES)
        ),
        "made_images": Rule(
            "highest AUROC of held-out ID against its own images, jumbled", _against_outliers(MADE_IMAGES)
        ),
        "agreement": Rule("scores that agree most with all others on held-out ID (Spearman)", _agreement),
    },
    "transfer": {
        "headline": _headline("transfer"),
        "nc1_train": _collapse("transfer", "id_train", "nc1_pinv"),
        "nc1_held_out": _collapse("transfer", "id_val", "nc1_pinv"),
        "vci_held_out": _collapse("transfer", "id_val", "vci"),
    },
}
"""By task and name, in the order in which they are told."""

RECOMMENDED = {"detection": ("made_images", "made_features", "headline"), "transfer": ("nc1_train", "headline")}
"""The rule that is followed, the first that has what it needs: those with the least regret (docs/choosing.md)."""
