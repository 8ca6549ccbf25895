"""The full-spectrum protocol: covariate-shifted images of ID classes count as ID.

Source: Yang, Zhou and Liu, "Full-Spectrum Out-of-Distribution Detection", IJCV 2023, as OpenOOD v1.5 measures it: the
scores of ID test and of every covariate-shifted set are one ID side, against which each near and far set is measured.
A detector that takes any shift for OOD loses here what it wins under the strict protocol.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from ood_nc.data import ood_key
from ood_nc.documents import OOD_GROUPS
from ood_nc.errors import UserError
from ood_nc.evaluation.detection import detection_rows, null_rows
from ood_nc.evaluation.findings import Found
from ood_nc.evaluation.measurement_plan import Plan
from ood_nc.evaluation.results import FULL_SPECTRUM, Row


def check_shifted(protocols: Iterable[str], groups: Iterable[str]) -> None:
    """Refuse what the protocol could not measure, before anything is computed.

    Args:
        protocols: of the evaluation.
        groups: of the OOD sets in its results.

    Raises:
        UserError: no set is covariate-shifted.
    """
    if FULL_SPECTRUM in protocols and "covariate" not in groups:
        raise UserError(f"Protocol {FULL_SPECTRUM} needs a covariate-shifted OOD set (group covariate).")


def full_spectrum_rows(plan: Plan, found: Found) -> list[Row]:
    """The rows of every feature detector at every tap, from the scores that the strict protocol left."""
    shifted = [name for name, group in plan.inputs.groups.items() if group == "covariate"]
    groups = {name: group for name, group in plan.inputs.groups.items() if group in OOD_GROUPS}
    inputs, base = replace(plan.inputs, groups=groups), {**plan.base, "protocol": FULL_SPECTRUM}
    plan = replace(plan, inputs=inputs, base=base)
    chosen = {(row["tap"], row["method"]): row["selected_on"] for row in found.rows if row["kind"] == "detection"}
    failures: dict[tuple[str, str], dict[str, str]] = {}
    for row in found.rows:
        if row["kind"] == "detection" and row["value"] is None and row["dataset"] in groups:
            failures.setdefault((row["tap"], row["method"]), {})[ood_key(row["dataset"])] = row["reason"]
    rows: list[Row] = []
    for tap, methods in found.scores.items():
        for name, scores in methods.items():
            make = functools.partial(plan.of("detection", tap), method=name, selected_on=chosen.get((tap, name)))
            lacking = [one for one in shifted if ood_key(one) in plan.ids and ood_key(one) not in scores]
            if lacking:
                rows += null_rows(groups, f"no scores on {', '.join(lacking)}, which the ID side holds", make)
                continue
            together = [scores[key] for key in ("id_test", *map(ood_key, shifted)) if key in scores]
            joined = {**scores, "id_test": np.concatenate(together)}
            rows += detection_rows(joined, failures.get((tap, name), {}), plan, make)
    sizes = ", ".join(f"{name} ({len(plan.ids.get(ood_key(name), ()))})" for name in shifted)
    found.notes.append(f"{FULL_SPECTRUM}: ID test ({len(plan.ids['id_test'])}) and {sizes} are the ID side of its rows")
    return rows
