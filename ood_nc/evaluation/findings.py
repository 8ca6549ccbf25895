"""What an evaluation has found so far, carried from step to step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ood_nc.data import ood_key, transfer_keys
from ood_nc.evaluation.curves import roc_curves
from ood_nc.evaluation.detection import Measured, Scores
from ood_nc.evaluation.histograms import histograms
from ood_nc.evaluation.measurement_plan import Plan
from ood_nc.evaluation.results import Row
from ood_nc.evaluation.scores_table import Columns, score_column
from ood_nc.scores import tie_note


@dataclass
class Found:
    """What the taps gave so far: rows, histograms, ROC curves, maps, accuracies of probes by class, columns of scores
    and of right answers by set key, the scores by tap, detector and set key, collapse on held-out ID by tap, and what
    is to be known beside the numbers of a tap or detector."""

    rows: list[Row] = field(default_factory=list)
    histograms: list[dict[str, Any]] = field(default_factory=list)
    roc: list[dict[str, Any]] = field(default_factory=list)
    maps: list[dict[str, Any]] = field(default_factory=list)
    by_class: list[dict[str, Any]] = field(default_factory=list)
    columns: dict[str, Columns] = field(default_factory=lambda: defaultdict(dict))
    scores: dict[str, dict[str, dict[str, Scores]]] = field(default_factory=dict)
    held_out: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def series(self) -> dict[str, Any]:
        """What the results keep beside the long table."""
        return {"histograms": self.histograms, "roc": self.roc, "maps": self.maps, "by_class": self.by_class}

    def take_in(self, other: Found) -> None:
        """Take in what was found elsewhere, at other taps."""
        for name in ("rows", "histograms", "roc", "maps", "by_class", "notes"):
            getattr(self, name).extend(getattr(other, name))
        for key, columns in other.columns.items():
            self.columns[key].update(columns)
        self.scores.update(other.scores)
        self.held_out.update(other.held_out)

    def draw(self, tap: str, name: str, one: Measured) -> None:
        """Keep what figures show of a detector's scores."""
        self.histograms += histograms(tap, name, one.tested)
        self.roc += roc_curves(tap, name, one.tested)

    def add(self, tap: str, name: str, one: Measured) -> None:
        """Take in what a detector gave at a tap."""
        self.rows += one.rows
        for key, scores in one.scores.items():
            self.columns[key][score_column(tap, name)] = scores
        self.notes += [f"{tap}, {name}: {note}" for note in _ties(one.tested)]


def tested_sets(plan: Plan, found: Found) -> list[tuple[str, str, tuple[str, ...], Columns]]:
    """Group, name, ids and columns of every set that is tested."""
    inputs, banks = plan.inputs, plan.banks
    sets = [("id", "id_test", "id_test")]
    sets += [(group, name, ood_key(name)) for name, group in inputs.groups.items()]
    sets += [("transfer", name, transfer_keys(name)[1]) for name in inputs.transfer]
    return [(group, name, banks[key].ids, found.columns[key]) for group, name, key in sets if key in banks]


def _ties(scores: Mapping[str, Scores]) -> Iterator[str]:
    """What `tie_note` says of each OOD set."""
    for key, outside in scores.items():
        # A score that is NaN has no metrics either; its rows say why.
        if key == "id_test" or np.isnan(scores["id_test"]).any() or np.isnan(outside).any():
            continue
        if (note := tie_note(scores["id_test"], outside)) is not None:
            yield f"on {key.removeprefix('ood/')}, {note}"
