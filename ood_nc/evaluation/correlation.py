"""Pearson's and Spearman's correlation of many variables with many, with intervals that resample whole taps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

FEWEST_TAPS = 3
"""Fewer distinct taps give no correlation: two points always lie on a line."""

_NO_VARIANCE = 1e-14
"""Share of the squared range of a variable below which its variance in a resample is only rounding."""

_CELLS = 1 << 22
"""Numbers that an array over variables, resamples and pairs may have."""


class Resampling:
    """Resampled taps as counts of pairs, drawn once for every set of defined pairs.

    Args:
        taps: the tap (of a run) of each pair (P,).
        replicates: number of resamples.
        confidence: of the intervals.
        seed: of the resampling.
    """

    def __init__(self, taps: Indices, replicates: int, confidence: float, seed: int) -> None:
        self.taps = taps
        self.replicates = replicates
        self.confidence = confidence
        self.seed = seed
        self._counts: dict[bytes, Array] = {}

    def counts(self, defined: NDArray[np.bool_]) -> Array:
        """How often each pair counts (1 + replicates, P): first every defined pair once, then the resamples."""
        key = defined.tobytes()
        if key not in self._counts:
            taps, position = np.unique(self.taps[defined], return_inverse=True)
            generator = np.random.default_rng(self.seed)
            drawn = generator.multinomial(len(taps), np.full(len(taps), 1 / len(taps)), size=self.replicates)
            counts = np.zeros((1 + self.replicates, len(defined)))
            counts[0, defined], counts[1:, defined] = 1, drawn[:, position]
            self._counts[key] = counts
        return self._counts[key]


def correlate(x: Array, y: Array, resampling: Resampling) -> list[list[dict[str, Any]]]:
    """Correlate every row of ``x`` (K, P) with every row of ``y`` (E, P), over pairs where both are defined (not NaN).

    Args:
        x: the variables.
        y: the other variables.
        resampling: of the pairs.

    Returns:
        For each row of ``y``, for each of ``x``: ``n, taps, pearson, pearson_low, pearson_high, spearman, spearman_low,
        spearman_high, reason``.
    """
    found: list[list[dict[str, Any]]] = [[{} for _ in x] for _ in y]
    for of_y, y_defined in _by_mask(~np.isnan(y)):
        for of_x, defined in _by_mask(~np.isnan(x) & y_defined):
            step = max(1, _CELLS // ((1 + resampling.replicates) * max(len(of_x), x.shape[1])))
            for start in range(0, len(of_y), step):
                some = of_y[start : start + step]
                entries = _correlate_defined(x[of_x], y[some], defined, resampling)
                for (row, column), entry in zip(
                    ((row, column) for row in some for column in of_x), entries, strict=True
                ):
                    found[row][column] = entry
    return found


def _by_mask(defined: NDArray[np.bool_]) -> Iterator[tuple[Indices, NDArray[np.bool_]]]:
    """The rows (E, P) of each distinct mask, and the mask (P,)."""
    for mask in np.unique(defined, axis=0):
        yield np.flatnonzero((defined == mask).all(axis=1)), mask


def pearson(x: Array, y: Array) -> float | None:
    """Pearson's correlation of two vectors, None where one does not vary."""
    ((value,),) = _weighted_pearson(x[None], y[None], np.ones((1, len(x))))[..., 0]
    return None if np.isnan(value) else float(value)


def min_max(values: Array, panels: Indices) -> Array:
    """Scale to [0, 1] inside each panel, leaving out NaN; NaN where a panel has no spread."""
    scaled = np.full_like(values, np.nan)
    for panel in np.unique(panels):
        inside = (panels == panel) & ~np.isnan(values)
        if inside.any() and np.ptp(values[inside]) > 0:
            scaled[inside] = (values[inside] - values[inside].min()) / np.ptp(values[inside])
    return scaled


def centred_ranks(values: Array, counts: Array) -> Array:
    """Mid-ranks of ``values`` (P,) in each resample, minus their mean (R, P)."""
    below = (values[:, None] < values).astype(float) + 0.5 * (values[:, None] == values)
    ranks: Array = counts @ below - counts.sum(axis=1, keepdims=True) / 2
    return ranks


def _correlate_defined(x: Array, y: Array, defined: NDArray[np.bool_], resampling: Resampling) -> list[dict[str, Any]]:
    """Entries by row of ``y`` (E, P) and, inside, of ``x`` (K, P)."""
    n, taps = int(defined.sum()), len(np.unique(resampling.taps[defined]))
    names = ("pearson", "pearson_low", "pearson_high", "spearman", "spearman_low", "spearman_high", "reason")
    if taps < FEWEST_TAPS:
        reason = f"{taps} taps with both values; at least {FEWEST_TAPS} are needed"
        return [{"n": n, "taps": taps, **dict.fromkeys(names), "reason": reason} for _ in range(len(x) * len(y))]
    counts = resampling.counts(defined)
    x, y = np.where(defined, x, 0.0), np.where(defined, y, 0.0)
    columns: list[list[Any]] = []
    for values in (_weighted_pearson(x, y, counts), _weighted_spearman(x, y, counts)):
        values = values.reshape(-1, len(counts))
        ends = (values[:, 0], *_intervals(values[:, 1:], resampling.confidence))
        columns += [[None if value != value else value for value in end.tolist()] for end in ends]
    columns.append([None if value is not None else "one of the two does not vary" for value in columns[3]])
    return [{"n": n, "taps": taps, **dict(zip(names, row, strict=True))} for row in zip(*columns, strict=True)]


def _weighted_pearson(x: Array, y: Array, counts: Array) -> Array:
    """The correlation of each row of ``y`` (E, P) with each of ``x`` (K, P) in each resample (E, K, R); NaN without
    variance."""
    x, y = (_to_unit_range(rows, counts[0] > 0) for rows in (x, y))
    total = counts.sum(axis=1)
    sums = [rows @ counts.T for rows in (x, y)]
    squares = [(rows * rows) @ counts.T - sum_**2 / total for rows, sum_ in zip((x, y), sums, strict=True)]
    products = (y[:, None] * x) @ counts.T - sums[1][:, None] * sums[0] / total
    return _ratio(products, squares[0], squares[1][:, None], floor=_NO_VARIANCE * total)


def _weighted_spearman(x: Array, y: Array, counts: Array) -> Array:
    """The same of ranks in each resample."""
    ranks = [np.stack([centred_ranks(row, counts) for row in rows], axis=1) for rows in (x, y)]
    variances = [np.einsum("rkp,rkp,rp->kr", rows, rows, counts) for rows in ranks]
    products = (ranks[1] * counts[:, None]) @ ranks[0].transpose(0, 2, 1)
    return _ratio(products.transpose(1, 2, 0), variances[0], variances[1][:, None], floor=1e-9)


def _to_unit_range(values: Array, inside: NDArray[np.bool_]) -> Array:
    """Centre and scale each row by what is inside, which changes no correlation and keeps the sums small."""
    kept = values[:, inside]
    spread = np.ptp(kept, axis=1, keepdims=True)
    centre = kept.mean(axis=1, keepdims=True)
    size = np.max(np.abs(kept), axis=1, keepdims=True)
    # A spread that is only rounding is none.
    flat = spread <= 1e-12 * size
    return np.where(flat, 0.0, (values - centre) / np.where(flat, 1.0, spread))


def _ratio(products: Array, xx: Array, yy: Array, floor: float | Array) -> Array:
    varies = (xx > floor) & (yy > floor)
    safe = np.sqrt(np.where(varies, xx, 1.0)) * np.sqrt(np.where(varies, yy, 1.0))
    return np.where(varies, np.clip(products / safe, -1, 1), np.nan)


def _intervals(values: Array, confidence: float) -> tuple[Array, Array]:
    """Percentile intervals of each row, leaving out NaN; NaN where less than half of a row is defined."""
    count = (~np.isnan(values)).sum(axis=1)
    if values.shape[1] == 0:
        return np.full(len(values), np.nan), np.full(len(values), np.nan)
    ordered = np.sort(values, axis=1)
    rows = np.arange(len(values))
    ends = []
    for share in ((1 - confidence) / 2, (1 + confidence) / 2):
        position = np.maximum(count - 1, 0) * share
        low = position.astype(np.int64)
        high = np.minimum(low + 1, np.maximum(count - 1, 0))
        value = ordered[rows, low] + (position - low) * (ordered[rows, high] - ordered[rows, low])
        ends.append(np.where(2 * count >= values.shape[1], value, np.nan))
    return ends[0], ends[1]
