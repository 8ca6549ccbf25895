"""Several scores as one: of a detector over the taps, and of the detectors at a tap, scaled on held-out ID."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from ood_nc.errors import UserError
from ood_nc.evaluation.detection import Measured, Scores, detection_rows, null_rows
from ood_nc.evaluation.measurement_plan import Plan
from ood_nc.evaluation.results import reason_of
from ood_nc.scores import ScoreEnsemble

ByTap = Mapping[str, Mapping[str, Mapping[str, Scores]]]
"""Scores by tap, detector and set key."""


def measure_ensemble(
    plan: Plan, members: Sequence[Mapping[str, Scores]], combine: str, tap: str, method: str
) -> Measured:
    """The rows and scores of one ensemble; a null row with the reason where it cannot be formed.

    Args:
        plan: what is measured with.
        members: of each member, the scores by set key, those of held-out ID (``id_val``) among them.
        combine: rank, zscore, fisher or brown.
        tap: where its rows stand.
        method: what they call it.
    """
    make = functools.partial(plan.of("detection", tap), method=method)
    try:
        if len(members) < 2:
            raise UserError("an ensemble needs two scores or more here")
        if not all("id_val" in scores for scores in members):
            raise UserError("a member has no scores on held-out ID")
        ensemble = ScoreEnsemble(combine).fit(_joined(members, "id_val"))  # type: ignore[arg-type]
        common = [key for key in members[0] if key != "id_val" and all(key in scores for scores in members)]
        scores = {key: ensemble.score(_joined(members, key)).numpy() for key in common}
    except UserError as error:
        return Measured(null_rows(plan.inputs.groups, reason_of(error), make), {})
    missing = {key: "a member has no scores there" for key in plan.ids if key not in scores}
    return Measured(detection_rows(scores, missing, plan, make), scores)


def _joined(members: Sequence[Mapping[str, Scores]], key: str) -> Scores:
    return np.stack([scores[key] for scores in members], axis=1)
