"""OpenOOD's csv of detection results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from ood_nc.documents import OOD_GROUPS, is_one_set
from ood_nc.errors import UserError
from ood_nc.evaluation.results import Results
from ood_nc.headline import headline
from ood_nc.spreadsheets import csv_text

_COLUMNS = {"FPR@95": "fpr95_ood_positive", "AUROC": "auroc", "AUPR_IN": "aupr_in", "AUPR_OUT": "aupr_out"}


def to_openood_csv(results: Results, *, tap: str | None = None, method: str | None = None) -> str:
    """The results of one detector on one tap, as OpenOOD writes them.

    A line a data set, near sets first, after each group its mean as ``nearood`` or ``farood``; percent with two
    decimals. ``FPR@95`` there counts OOD as positive, so it is `fpr95_ood_positive`. ``ACC`` is the head's accuracy.
    An undefined set is left empty and is in no mean.

    Args:
        results: of one run.
        tap: its tap; the one the head reads when not given.
        method: the detector; the first that stands for the run (`HEADLINE_RULE`) when not given.

    Raises:
        UserError: the results hold no detection on that tap by that detector.

    Example:
        >>> import numpy as np
        >>> from ood_nc.evaluation import evaluate, to_openood_csv
        >>> at = lambda *means: np.repeat(np.eye(3, dtype="float32")[list(means)], 20, axis=0)
        >>> noise = np.random.default_rng(0).normal(scale=0.1, size=(60, 3)).astype("float32")
        >>> arrays = {"id_train/encoder": at(0, 1, 2) + noise, "id_train/labels": np.repeat([0, 1, 2], 20),
        ...           "id_test/encoder": at(0, 1, 2) - noise, "id_test/labels": np.repeat([0, 1, 2], 20),
        ...           "ood/far/encoder": -5 * at(0, 0) - noise[:40]}
        >>> results = evaluate(features=arrays, detectors=["knn"], probes=["nearest_mean"], bootstrap=0)
        >>> print(to_openood_csv(results))
        dataset,FPR@95,AUROC,AUPR_IN,AUPR_OUT,ACC
        far,0.00,100.00,100.00,100.00,
        farood,0.00,100.00,100.00,100.00,
        <BLANKLINE>
    """
    results = replace(results, rows=results.main_rows)
    chosen = headline(results.identity)
    tap, method = tap or chosen.detection_tap, method or next(iter(chosen.detectors), "any detector")
    rows = [row for row in results.select(kind="detection", tap=tap, method=method) if is_one_set(row)]
    if not any(row["group"] in OOD_GROUPS for row in rows):
        known = {
            f"{row['method']} on {row['tap']}"
            for row in results.select(kind="detection")
            if row["group"] in OOD_GROUPS and is_one_set(row)
        }
        run = results.identity.get("run", "the run")
        raise UserError(
            f"No near or far OOD results of {run} by {method} on {tap}; there are {', '.join(sorted(known)) or 'none'}."
        )
    head = results.select(kind="accuracy", method="head", metric="accuracy")
    accuracy = head[0]["value"] if head else None
    lines = [["dataset", *_COLUMNS, "ACC"]]
    for group in OOD_GROUPS:
        by_set = _by_set([row for row in rows if row["group"] == group])
        lines += [[name, *_percent(values), _format(accuracy)] for name, values in by_set.items()]
        if by_set:
            lines.append([f"{group}ood", *_percent(_means(list(by_set.values()))), _format(accuracy)])
    return csv_text(lines)


def _by_set(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    by_set: dict[str, dict[str, float | None]] = {}
    for row in rows:
        by_set.setdefault(row["dataset"], {})[row["metric"]] = row["value"]
    return by_set


def _means(sets: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    means: dict[str, float | None] = {}
    for metric in _COLUMNS.values():
        values = [value for value in (found.get(metric) for found in sets) if value is not None]
        means[metric] = fmean(values) if values else None
    return means


def _percent(values: Mapping[str, float | None]) -> list[str]:
    return [_format(values.get(metric)) for metric in _COLUMNS.values()]


def _format(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"
