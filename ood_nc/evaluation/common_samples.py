"""Several runs on the images that all of them have, resampled together, so that the difference of any two is paired."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ood_nc.evaluation.scores_table import Samples, Set
from ood_nc.scores import draw_samples, ranks_of_samples, resampled_metrics

COMPARED = ("fpr95_id_positive", "auroc")

Array = NDArray[Any]
ID: Set = ("id", "id_test")


class CommonSamples:
    """The images that all runs have; each set is resampled once for all runs. Sets of other data have none in common.

    Args:
        runs: the tables of all runs.
        replicates: bootstrap replicates.
        seed: of the resampling. Equal seeds draw equal samples, whatever the runs.

    Attributes:
        ids: of the images of each set that is not empty, in the order of the first run.
        counts: how often each of them is drawn in each replicate (R, n).
        groups: of each set.
    """

    def __init__(self, runs: Sequence[Samples], replicates: int, seed: int) -> None:
        shared = [chosen for chosen in runs[0].ids if all(chosen in run.ids for run in runs)]
        shared = [one for one in shared if not any(run.is_of_other_data(runs[0], one) for run in runs)]
        common = {chosen: reduce(_in_both, [run.ids[chosen] for run in runs]) for chosen in shared}
        self.runs, self.groups = runs, runs[0].groups
        self.ids = {chosen: ids for chosen, ids in common.items() if ids}
        self.counts = {
            chosen: draw_samples(len(ids), replicates, [seed, place])
            for place, (chosen, ids) in enumerate(self.ids.items())
        }
        self._rows = [{one: _positions(run.ids[one], ids) for one, ids in self.ids.items()} for run in runs]

    def column(self, run: int, chosen: Set, name: str) -> Array | None:
        """A column of the run at that place on the common images of a set; None where it is undefined on any."""
        values = self.runs[run].get(chosen, name) if chosen in self.ids else None
        return None if values is None else values[self._rows[run][chosen]]

    def detection(self, run: int, column: str) -> dict[Set, dict[str, Array]]:
        """The metrics `COMPARED` of a score on every OOD set where it is defined: the value, then the resamples'."""
        inside = self.column(run, ID, column)
        if inside is None:
            return {}
        id_drawn = ranks_of_samples(self.counts[ID], inside)
        sets = {one: self.column(run, one, column) for one in self.ids if one[0] == "ood"}
        return {
            one: resampled_metrics(inside, scores, id_drawn, ranks_of_samples(self.counts[one], scores), COMPARED)
            for one, scores in sets.items()
            if scores is not None
        }


def _in_both(ids: list[str], others: list[str]) -> list[str]:
    if ids == others:
        return ids
    known = set(others)
    return [name for name in ids if name in known]


def _positions(ids: Sequence[str], wanted: Sequence[str]) -> Array:
    position = {name: row for row, name in enumerate(ids)}
    found: Array = np.array([position[name] for name in wanted], dtype=np.int64)
    return found
