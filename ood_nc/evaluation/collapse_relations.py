"""How collapse relates to detection and transfer errors, over taps and data sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ood_nc.documents import OOD_GROUPS, is_one_set
from ood_nc.evaluation.correlation import Array, Indices, Resampling, correlate, min_max, pearson

Row = Mapping[str, Any]
Cell = tuple[str, str, str]
"""A run, a tap and a data set."""

FEWEST_RUNS = 3
"""Fewer give no correlation over runs: two points always lie on a line."""

COLLAPSE_SPLIT = "id_train"

_ERRORS = {
    ("detection", "auroc"): ("1-auroc", lambda value: 1.0 - value),
    ("detection", "fpr95_id_positive"): ("fpr95_id_positive", lambda value: value),
    ("transfer", "accuracy"): ("transfer_error", lambda value: 1.0 - value),
}


def relate(
    rows: Iterable[Row], *, replicates: int = 500, confidence: float = 0.95, seed: int = 0
) -> list[dict[str, Any]]:
    """Correlate every collapse metric with every detection and transfer error over (tap, data set) pairs.

    The sign convention is the paper's: the collapse *value* (NC1 falls as collapse grows) against the *error*
    (1 - AUROC, FPR at 95 % TPR with ID positive, 1 - probe accuracy). Collapse is that of the ID training features.
    Each relation comes raw, and with x and y min-max normalised over the taps of each (run, data set).

    The pairs of one network are not independent, so the intervals resample whole taps with all their data sets
    (of each run, when there are several). Depth drives both axes: ``pearson_within_depth`` correlates what is left
    after the mean over runs of each (tap, data set) is taken off, ``pearson_across_runs`` the means of the runs over
    those that all have; one run alone has neither.

    Args:
        rows: the long table of a run, or of several joined.
        replicates: bootstrap replicates, 0 for no intervals.
        confidence: of the intervals.
        seed: of the resampling.

    Returns:
        A dictionary a relation: ``x, y, method, kind, normalized, collapse_on, n, taps, pearson, pearson_low,
        pearson_high, spearman, spearman_low, spearman_high, pearson_within_depth, pearson_across_runs, reason``; an
        undefined value is None.

    Example:
        >>> import numpy as np
        >>> from ood_nc.evaluation import evaluate, relate
        >>> at = lambda *means: np.repeat(np.eye(3, dtype="float32")[list(means)], 20, axis=0)
        >>> noise = np.random.default_rng(0).normal(scale=0.1, size=(60, 3)).astype("float32")
        >>> arrays = {"id_train/encoder": at(0, 1, 2) + noise, "id_train/labels": np.repeat([0, 1, 2], 20),
        ...           "id_test/encoder": at(0, 1, 2) - noise, "id_test/labels": np.repeat([0, 1, 2], 20),
        ...           "ood/far/encoder": -5 * at(0, 0) - noise[:40]}
        >>> results = evaluate(features=arrays, detectors=["knn"], probes=["nearest_mean"], bootstrap=0)
        >>> [(found["x"], found["y"], found["n"], found["reason"]) for found in relate(results.rows)][:1]
        [('trace_within', '1-auroc', 1, '1 taps with both values; at least 3 are needed')]
    """
    rows = [row for row in rows if row["value"] is not None and row["tap"] is not None]
    collapse = _collapse_values(rows)
    relations = []
    for kind in ("detection", "transfer"):
        errors = _errors(rows, kind)
        cells = list(dict.fromkeys(cell for values in errors.values() for cell in values))
        if cells and collapse:
            resampling = Resampling(_codes([cell[:2] for cell in cells]), replicates, confidence, seed)
            relations += _relations_of_kind(kind, cells, collapse, errors, resampling)
    return relations


def _collapse_values(rows: Sequence[Row]) -> dict[str, dict[tuple[str, str], float]]:
    table: dict[str, dict[tuple[str, str], float]] = {}
    for row in rows:
        if row["kind"] == "collapse" and row["dataset"] == COLLAPSE_SPLIT:
            table.setdefault(row["metric"], {})[row["run"], row["tap"]] = row["value"]
    return table


def _errors(rows: Sequence[Row], kind: str) -> dict[tuple[str, str], dict[Cell, float]]:
    """Error name and method to the error of each cell."""
    table: dict[tuple[str, str], dict[Cell, float]] = {}
    for row in rows:
        if row["kind"] != kind or (kind, row["metric"]) not in _ERRORS or not is_one_set(row):
            continue
        if kind == "transfer" or row["group"] in OOD_GROUPS:
            name, as_error = _ERRORS[kind, row["metric"]]
            table.setdefault((name, row["method"]), {})[row["run"], row["tap"], row["dataset"]] = as_error(row["value"])
    return table


def _relations_of_kind(
    kind: str,
    cells: Sequence[Cell],
    collapse: Mapping[str, Mapping[tuple[str, str], float]],
    errors: Mapping[tuple[str, str], Mapping[Cell, float]],
    resampling: Resampling,
) -> list[dict[str, Any]]:
    raw = np.array([[values.get(cell[:2], np.nan) for cell in cells] for values in collapse.values()])
    panels = _codes([(cell[0], cell[2]) for cell in cells])
    scaled = np.array([min_max(values, panels) for values in raw])
    places, runs = _codes([cell[1:] for cell in cells]), _codes([cell[:1] for cell in cells])
    # One run alone has neither, and there are many thousands of pairs to say so of.
    within, across = len(np.unique(places)) < len(places), len(np.unique(runs)) >= FEWEST_RUNS
    y = np.array([[values.get(cell, np.nan) for cell in cells] for values in errors.values()])
    pairs = {False: (raw, y), True: (scaled, np.array([min_max(values, panels) for values in y]))}
    found = {normalized: correlate(*pair, resampling) for normalized, pair in pairs.items()}
    return [
        {
            "x": x_name,
            "y": y_name,
            "method": method,
            "kind": kind,
            "normalized": normalized,
            "collapse_on": COLLAPSE_SPLIT,
            **found[normalized][row][column],
            "pearson_within_depth": _within_depth(x[column], y[row], places) if within else None,
            "pearson_across_runs": _across_runs(x[column], y[row], places, runs) if across else None,
        }
        for row, (y_name, method) in enumerate(errors)
        for normalized, (x, y) in pairs.items()
        for column, x_name in enumerate(collapse)
    ]


def _codes(keys: Sequence[tuple[str, ...]]) -> Indices:
    known = {key: code for code, key in enumerate(dict.fromkeys(keys))}
    return np.array([known[key] for key in keys], dtype=np.int64)


def _within_depth(x: Array, y: Array, places: Indices) -> float | None:
    """The correlation over runs of what is left after the mean of each (tap, data set) is taken off."""
    defined = ~(np.isnan(x) | np.isnan(y))
    x, y, places = x[defined], y[defined], places[defined]
    if len(np.unique(places)) == len(places):
        return None
    return pearson(*(_without_rounding(values - _means(values, places), values) for values in (x, y)))


def _across_runs(x: Array, y: Array, places: Indices, runs: Indices) -> float | None:
    """The correlation over runs of their means over the (tap, data set) pairs that all have: others would tell apart
    what was measured."""
    defined = ~(np.isnan(x) | np.isnan(y))
    count = len(np.unique(runs[defined]))
    defined &= (np.bincount(places[defined], minlength=places.max() + 1) == count)[places]
    runs = runs[defined]
    _, first = np.unique(runs, return_index=True)
    if len(first) < FEWEST_RUNS:
        return None
    return pearson(*(_means(values[defined], runs)[first] for values in (x, y)))


def _means(values: Array, groups: Indices) -> Array:
    means: Array = (np.bincount(groups, values) / np.maximum(np.bincount(groups), 1))[groups]
    return means


def _without_rounding(differences: Array, values: Array) -> Array:
    """Differences of ``values`` that are only rounding become 0, so that a constant has no variance."""
    return np.where(np.abs(differences) > 1e-12 * np.max(np.abs(values)), differences, 0.0)
