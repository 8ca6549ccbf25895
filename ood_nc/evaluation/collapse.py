"""Collapse at one tap: every metric on ID train and on held-out ID, and the angle to each OOD set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ood_nc.collapse import METRICS, ClassStatistics, measure
from ood_nc.data import Inputs, ood_key
from ood_nc.errors import UserError
from ood_nc.evaluation.measurement_plan import Plan
from ood_nc.evaluation.results import MakeRow, Row, reason_of
from ood_nc.evaluation.taps import TapData, labelled

ENTROPY_SAMPLES = 2048
"""entropy_nn grows with the number of samples and is quadratic in it, so every tap and run takes the same number."""


def _names(*, ood: bool) -> list[str]:
    """The metrics that compare ID features with OOD ones, or all others."""
    return [name for name, metric in METRICS.items() if ("ood" in metric.needs) == ood]


def collapse_rows(tap: TapData, plan: Plan) -> list[Row]:
    """The rows of one tap.

    The ``method`` of a metric that involves W and b names whose they are: the head's, or those of the tap's ID probe.
    Nearest class means on held-out ID are those of ID train. Those that need OOD features compare ID train with
    each set.
    """
    ood = {name: tap.features.get(ood_key(name)) for name in plan.inputs.groups}
    known = {name: (features, len(features)) for name, features in ood.items() if features is not None}
    return rows_of_statistics(tap, lambda split: _statistics(tap, split, plan.inputs), known, plan)


def rows_of_statistics(
    tap: TapData, statistics: Callable[[str], ClassStatistics], ood: Mapping[str, tuple[torch.Tensor, int]], plan: Plan
) -> list[Row]:
    """The rows of one tap by its statistics; without features in ``tap``, what needs these is a null row.

    Args:
        tap: the tap.
        statistics: of ``id_train`` and ``id_test``; raises a `UserError` where there are none.
        ood: the features (N, d) of each OOD set, or their mean (d,), and N.
        plan: what is measured with.
    """
    make = plan.of("collapse", tap.name)
    rows: list[Row] = []
    train: ClassStatistics | None = None
    for split in ("id_train", "id_test"):
        try:
            stats = statistics(split)
            rows += _rows(tap, split, stats, train, plan.seed, make)
            train = train or (stats if split == "id_train" else None)
        except UserError as error:
            rows += [_row(tap, split, name, make, value=None, reason=reason_of(error)) for name in _names(ood=False)]
    if train is not None:
        rows += _ood_rows(train, ood, plan.inputs, make)
    return rows


def held_out_collapse(tap: TapData, inputs: Inputs) -> dict[str, float]:
    """NC1 and VCI on ID images held out of the fits, for rules that choose a tap; empty where they are undefined."""
    if "id_val" not in tap.features:
        return {}
    try:
        values = measure(_statistics(tap, "id_val", inputs), metrics=["nc1_pinv", "vci"]).values
    except UserError:
        return {}
    return {name: value for name, value in values.items() if value is not None}


def _statistics(tap: TapData, split: str, inputs: Inputs) -> ClassStatistics:
    features, labels = tap.features[split], tap.labels[split]
    if not labelled(labels):
        raise UserError("the set has no labels")
    classes = inputs.id_train.num_classes if tap.head is None else len(tap.head[0])
    return ClassStatistics(classes, features.shape[1], device=features.device).update(features, labels)


def _rows(
    tap: TapData, split: str, stats: ClassStatistics, train: ClassStatistics | None, seed: int, make: MakeRow
) -> list[Row]:
    weight, bias = tap.head or (None, None)
    names = _names(ood=False)
    report = measure(
        stats,
        weight=weight,
        bias=bias,
        features=tap.features.get(split),
        labels=tap.labels[split] if split in tap.features else None,
        predictions=tap.own_logits[split].argmax(dim=1) if tap.own_logits and split in tap.features else None,
        reference=train,
        metrics=names,
        entropy_samples=ENTROPY_SAMPLES,
        seed=seed,
    )
    values = report.to_dict()
    return [
        _row(tap, split, name, make, value=values[name], reason=report.reasons.get(name), n=report.num_samples)
        for name in names
    ]


def _row(tap: TapData, split: str, name: str, make: MakeRow, **values: Any) -> Row:
    involved = any("weight" in need for need in METRICS[name].needs)
    where = {"dataset": split, "group": "id", "method": tap.head_name if involved else None}
    return make(**where, metric=name, selected_on=tap.selected_on if involved else None, **values)


def _ood_rows(
    train: ClassStatistics, ood: Mapping[str, tuple[torch.Tensor, int]], inputs: Inputs, make: MakeRow
) -> list[Row]:
    rows, names = [], _names(ood=True)
    for ood_set, group in inputs.groups.items():
        where = {"dataset": ood_set, "group": group}
        if ood_set not in ood:
            rows += [make(**where, metric=name, value=None, reason="the set holds no readable image") for name in names]
            continue
        features, n = ood[ood_set]
        report = measure(train, ood=features, metrics=names)
        for name in names:
            rows.append(make(**where, metric=name, value=report.values[name], reason=report.reasons.get(name), n=n))
    return rows
