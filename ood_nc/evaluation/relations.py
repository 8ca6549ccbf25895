"""How collapse relates to detection and transfer errors, over taps and data sets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Row = Mapping[str, Any]

FEWEST_TAPS = 3
"""Fewer distinct taps give no correlation: two points always lie on a line."""

FEWEST_RUNS = 3
"""The same for a correlation over runs."""

COLLAPSE_SPLIT = "id_train"
OOD_GROUPS = ("near", "far")
"""The groups that are to be told from ID; a covariate-shifted set shows ID classes and is reported apart."""

_DETECTION_ERRORS = {"auroc": ("1-auroc", lambda v: 1.0 - v), "fpr95_id_positive": ("fpr95_id_positive", lambda v: v)}
_CORRELATIONS = (
    *("pearson", "pearson_low", "pearson_high", "spearman", "spearman_low", "spearman_high"),
    *("pearson_within_depth", "pearson_across_runs"),
)
_TRANSFER_ERRORS = {"accuracy": ("transfer_error", lambda v: 1.0 - v)}


@dataclass(frozen=True)
class _Pairs:
    """Values of one collapse metric (x) and one error (y), a row for each (run, tap, data set)."""

    x: Array
    y: Array
    units: NDArray[np.int64]
    cells: NDArray[np.int64]
    panels: NDArray[np.int64]
    runs: NDArray[np.int64]

    def masked(self, x: Array, y: Array) -> _Pairs:
        """These pairs with other values, the undefined ones left out."""
        keep = ~(np.isnan(x) | np.isnan(y))
        return _Pairs(x[keep], y[keep], self.units[keep], self.cells[keep], self.panels[keep], self.runs[keep])


def relate(rows: Iterable[Row], *, replicates: int = 500, confidence: float = 0.95, seed: int = 0) -> list[dict[str, Any]]:
    """Correlate every collapse metric with every detection and transfer error over (tap, data set) pairs.

    The sign convention is the paper's: the collapse *value* (NC1 falls as collapse grows) against the *error*
    (1 - AUROC, FPR at 95 % TPR with ID positive, 1 - probe accuracy). Collapse is that of the ID training features.
    Each relation comes raw, and with x and y min-max normalised over the taps of each (run, data set).

    The pairs of one network are not independent, so the intervals resample whole taps with all their data sets
    (of each run, when there are several). Depth drives both axes: ``pearson_within_depth`` correlates what is left
    after the mean over runs of each (tap, data set) is taken off, ``pearson_across_runs`` the means of the runs; one
    run alone has neither.

    Args:
        rows: the long table of a run, or of several joined.
        replicates: bootstrap replicates, 0 for no intervals.
        confidence: of the intervals.
        seed: of the resampling.

    Returns:
        A dictionary a relation: ``x, y, method, kind, normalized, collapse_on, n, taps, pearson, pearson_low,
        pearson_high, spearman, spearman_low, spearman_high, pearson_within_depth, pearson_across_runs, reason``; an
        undefined value is None.
    """
    rows = [row for row in rows if row["value"] is not None and row["tap"] is not None]
    collapse = _collapse_values(rows)
    relations = []
    for kind, y_name, method, errors in _error_tables(rows):
        for x_name, values in collapse.items():
            pairs = _pair(values, errors)
            for normalized in (False, True):
                entry = {"x": x_name, "y": y_name, "method": method, "kind": kind, "normalized": normalized}
                entry |= {"collapse_on": COLLAPSE_SPLIT}
                relations.append(entry | _correlate(_normalize(pairs) if normalized else pairs, replicates, confidence, seed))
    return relations


def _collapse_values(rows: Sequence[Row]) -> dict[str, dict[tuple[str, str], float]]:
    table: dict[str, dict[tuple[str, str], float]] = {}
    for row in rows:
        if row["kind"] == "collapse" and row["dataset"] == COLLAPSE_SPLIT:
            table.setdefault(row["metric"], {})[row["run"], row["tap"]] = row["value"]
    return table


def _error_tables(rows: Sequence[Row]) -> Iterator[tuple[str, str, str, dict[tuple[str, str, str], float]]]:
    """Each (kind, error name, method) with its values by (run, tap, data set)."""
    tables: dict[tuple[str, str, str], dict[tuple[str, str, str], float]] = {}
    for row in rows:
        if row["kind"] == "detection" and row["group"] in OOD_GROUPS and row["dataset"] != "mean":
            errors = _DETECTION_ERRORS
        elif row["kind"] == "transfer" and row["dataset"] != "mean":
            errors = _TRANSFER_ERRORS
        else:
            continue
        if row["metric"] in errors:
            name, as_error = errors[row["metric"]]
            cell = (row["run"], row["tap"], row["dataset"])
            tables.setdefault((row["kind"], name, row["method"]), {})[cell] = as_error(row["value"])
    for (kind, name, method), values in tables.items():
        yield kind, name, method, values


def _pair(collapse: Mapping[tuple[str, str], float], errors: Mapping[tuple[str, str, str], float]) -> _Pairs:
    cells = [cell for cell in errors if cell[:2] in collapse]
    return _Pairs(
        x=np.array([collapse[cell[:2]] for cell in cells], dtype=float),
        y=np.array([errors[cell] for cell in cells], dtype=float),
        units=_codes([cell[:2] for cell in cells]),
        cells=_codes([cell[1:] for cell in cells]),
        panels=_codes([(cell[0], cell[2]) for cell in cells]),
        runs=_codes([(cell[0],) for cell in cells]),
    )


def _codes(keys: Sequence[tuple[str, ...]]) -> NDArray[np.int64]:
    known = {key: code for code, key in enumerate(dict.fromkeys(keys))}
    return np.array([known[key] for key in keys], dtype=np.int64)


def _normalize(pairs: _Pairs) -> _Pairs:
    """Min-max over the taps of each (run, data set); a panel without spread is left out."""
    x, y = np.full_like(pairs.x, np.nan), np.full_like(pairs.y, np.nan)
    for panel in np.unique(pairs.panels):
        inside = pairs.panels == panel
        x[inside], y[inside] = _min_max(pairs.x[inside]), _min_max(pairs.y[inside])
    return pairs.masked(x, y)


def _min_max(values: Array) -> Array:
    spread = np.ptp(values)
    return (values - values.min()) / spread if spread > 0 else np.full_like(values, np.nan)


def _correlate(pairs: _Pairs, replicates: int, confidence: float, seed: int) -> dict[str, Any]:
    taps = len(np.unique(pairs.units))
    entry: dict[str, Any] = {"n": len(pairs.x), "taps": taps, **dict.fromkeys(_CORRELATIONS), "reason": None}
    if taps < FEWEST_TAPS:
        return entry | {"reason": f"{taps} taps with both values; at least {FEWEST_TAPS} are needed"}
    counts = np.vstack([np.ones(len(pairs.x)), _tap_counts(pairs.units, replicates, seed)])
    for name, x, y in (
        ("pearson", pairs.x, pairs.y),
        ("spearman", _weighted_ranks(pairs.x, counts), _weighted_ranks(pairs.y, counts)),
    ):
        value, *replicated = _weighted_pearson(x, y, counts)
        if np.isnan(value):
            return entry | {"reason": "one of the two does not vary"}
        entry[name] = float(value)
        entry[f"{name}_low"], entry[f"{name}_high"] = _interval(np.array(replicated), confidence)
    entry["pearson_within_depth"], entry["pearson_across_runs"] = _within_depth(pairs), _across_runs(pairs)
    return entry


def _tap_counts(units: NDArray[np.int64], replicates: int, seed: int) -> Array:
    """How often each pair is drawn when whole taps are drawn with replacement, (replicates, pairs)."""
    taps, position = np.unique(units, return_inverse=True)
    draws = np.random.default_rng(seed).multinomial(len(taps), np.full(len(taps), 1 / len(taps)), size=replicates)
    return draws[:, position].astype(float)


def _weighted_ranks(values: Array, counts: Array) -> Array:
    """Mid-ranks of ``values`` in each resampled set, (replicates, pairs), up to a constant."""
    below = (values[:, None] < values).astype(float) + 0.5 * (values[:, None] == values)
    return counts @ below


def _weighted_pearson(x: Array, y: Array, counts: Array) -> Array:
    """Pearson's correlation in each resampled set; NaN where one side does not vary."""
    x, y = _centred(x, counts), _centred(y, counts)
    xx, yy, xy = (counts * x * x).sum(axis=1), (counts * y * y).sum(axis=1), (counts * x * y).sum(axis=1)
    varies = (xx > 0) & (yy > 0)
    safe = np.where(varies, np.sqrt(xx) * np.sqrt(yy), 1.0)
    return np.where(varies, np.clip(xy / safe, -1, 1), np.nan)


def _centred(values: Array, counts: Array) -> Array:
    mean = (counts * values).sum(axis=1, keepdims=True) / counts.sum(axis=1, keepdims=True)
    return _without_rounding(values - mean, values)


def _without_rounding(differences: Array, values: Array) -> Array:
    """Differences of ``values`` that are only rounding become 0, so that a constant has no variance."""
    scale = np.max(np.abs(values), axis=-1, keepdims=True)
    return np.where(np.abs(differences) > 1e-12 * scale, differences, 0.0)


def _interval(replicated: Array, confidence: float) -> tuple[float | None, float | None]:
    defined = replicated[~np.isnan(replicated)]
    if len(replicated) == 0 or len(defined) < len(replicated) / 2:
        return None, None
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _within_depth(pairs: _Pairs) -> float | None:
    """The correlation over runs of what is left after the mean of each (tap, data set) is taken off."""
    if len(np.unique(pairs.cells)) == len(pairs.cells):
        return None
    x, y = (_without_rounding(values - _means(values, pairs.cells), values) for values in (pairs.x, pairs.y))
    return _defined(_weighted_pearson(x, y, np.ones((1, len(x)))))


def _across_runs(pairs: _Pairs) -> float | None:
    """The correlation over runs of their means."""
    _, first = np.unique(pairs.runs, return_index=True)
    if len(first) < FEWEST_RUNS:
        return None
    x, y = (_means(values, pairs.runs)[first] for values in (pairs.x, pairs.y))
    return _defined(_weighted_pearson(x, y, np.ones((1, len(x)))))


def _means(values: Array, groups: NDArray[np.int64]) -> Array:
    return (np.bincount(groups, values) / np.bincount(groups))[groups]


def _defined(values: Array) -> float | None:
    return None if np.isnan(values[0]) else float(values[0])
