"""Collapse at one tap: every metric on ID train and on held-out ID, and the angle to each OOD set."""

from __future__ import annotations

from typing import Any

from ood_nc.collapse import METRICS, ClassStatistics, UndefinedMetricError, measure, nc5_ortho
from ood_nc.errors import UserError
from ood_nc.evaluation.inputs import Inputs, ood_key
from ood_nc.evaluation.results import MakeRow, Row, reason_of
from ood_nc.evaluation.taps import TapData, labelled

ENTROPY_SAMPLES = 2048
"""entropy_nn grows with the number of samples and is quadratic in it, so every tap and run takes the same number."""

_OF_ID = tuple(name for name in METRICS if name != "nc5_ortho")


def collapse_rows(tap: TapData, inputs: Inputs, *, seed: int, make: MakeRow) -> list[Row]:
    """The rows of one tap.

    The ``method`` of a metric that involves W and b names whose they are: the head's, or those of the tap's ID probe.
    Nearest class means on held-out ID are those of ID train. ``nc5_ortho`` compares ID train with each OOD set.

    Args:
        tap: the tap.
        inputs: the sets.
        seed: of the subset that entropy_nn searches.
        make: makes a row of this tap.
    """
    rows: list[Row] = []
    train: ClassStatistics | None = None
    for split in ("id_train", "id_test"):
        try:
            stats = _statistics(tap, split, inputs)
            rows += _rows(tap, split, stats, train, seed, make)
            train = train or (stats if split == "id_train" else None)
        except UserError as error:
            rows += [_row(tap, split, name, make, value=None, reason=reason_of(error)) for name in _OF_ID]
    if train is not None:
        rows += _ood_rows(tap, train, inputs, make)
    return rows


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
    report = measure(
        stats,
        weight=weight,
        bias=bias,
        features=tap.features[split],
        labels=tap.labels[split],
        predictions=tap.own_logits[split].argmax(dim=1) if tap.own_logits else None,
        reference=train,
        metrics=_OF_ID,
        entropy_samples=ENTROPY_SAMPLES,
        seed=seed,
    )
    values = report.to_dict()
    return [
        _row(tap, split, name, make, value=values[name], reason=report.reasons.get(name), n=report.num_samples)
        for name in _OF_ID
    ]


def _row(tap: TapData, split: str, name: str, make: MakeRow, **values: Any) -> Row:
    involved = any("weight" in need for need in METRICS[name].needs)
    where = {"dataset": split, "group": "id", "method": tap.head_name if involved else None}
    return make(**where, metric=name, selected_on=tap.selected_on if involved else None, **values)


def _ood_rows(tap: TapData, train: ClassStatistics, inputs: Inputs, make: MakeRow) -> list[Row]:
    rows = []
    for name, group in inputs.groups.items():
        features = tap.features.get(ood_key(name))
        where = {"dataset": name, "group": group, "metric": "nc5_ortho"}
        if features is None:
            rows.append(make(**where, value=None, reason="the set holds no readable image"))
            continue
        try:
            rows.append(make(**where, value=nc5_ortho(train, features), n=len(features)))
        except UndefinedMetricError as error:
            rows.append(make(**where, value=None, reason=str(error)))
    return rows
