"""Pearson's and Spearman's correlation of many variables with one, with intervals that resample whole taps."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

FEWEST_TAPS = 3
"""Fewer distinct taps give no correlation: two points always lie on a line."""

_NO_VARIANCE = 1e-14
"""Share of the squared range of a variable below which its variance in a resample is only rounding."""


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
        self._ranks: dict[Hashable, tuple[Array, Array]] = {}

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

    def ranks(self, x: Array, defined: NDArray[np.bool_], key: Hashable) -> tuple[Array, Array]:
        """Centred mid-ranks of each row of ``x`` in each resample (K, 1 + R, P), and their variances (K, 1 + R)."""
        key = (key, defined.tobytes(), len(x))
        if key not in self._ranks:
            counts = self.counts(defined)
            ranks = np.stack([centred_ranks(row, counts) for row in x])
            self._ranks[key] = ranks, np.einsum("krp,krp,rp->kr", ranks, ranks, counts)
        return self._ranks[key]


def correlate(x: Array, y: Array, resampling: Resampling, *, key: Hashable) -> list[dict[str, Any]]:
    """Correlate every row of ``x`` (K, P) with ``y`` (P,), over the pairs where both are defined (not NaN).

    Args:
        x: the variables.
        y: the other variable.
        resampling: of the pairs.
        key: names ``x``; equal keys mean equal ``x``.

    Returns:
        For each row ``n, taps, pearson, pearson_low, pearson_high, spearman, spearman_low, spearman_high, reason``.
    """
    defined = ~(np.isnan(x) | np.isnan(y))
    found: list[dict[str, Any]] = [{} for _ in x]
    for mask in np.unique(defined, axis=0):
        members = np.flatnonzero((defined == mask).all(axis=1))
        entries = _correlate_defined(x[members], y, mask, resampling, (key, tuple(members.tolist())))
        for member, entry in zip(members, entries, strict=True):
            found[member] = entry
    return found


def pearson(x: Array, y: Array) -> float | None:
    """Pearson's correlation of two vectors, None where one does not vary."""
    (value,) = _weighted_pearson(x[None], y, np.ones((1, len(x))))[:, 0]
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


def _correlate_defined(
    x: Array, y: Array, defined: NDArray[np.bool_], resampling: Resampling, key: Hashable
) -> list[dict[str, Any]]:
    taps = len(np.unique(resampling.taps[defined]))
    names = ("pearson", "pearson_low", "pearson_high", "spearman", "spearman_low", "spearman_high")
    entries: list[dict[str, Any]] = [
        {"n": int(defined.sum()), "taps": taps, **dict.fromkeys(names), "reason": None} for _ in x
    ]
    if taps < FEWEST_TAPS:
        return [
            entry | {"reason": f"{taps} taps with both values; at least {FEWEST_TAPS} are needed"} for entry in entries
        ]
    counts = resampling.counts(defined)
    x, y = np.where(defined, x, 0.0), np.where(defined, y, 0.0)
    ranks, variances = resampling.ranks(x, defined, key)
    y_ranks = centred_ranks(y, counts)
    y_variances = np.einsum("rp,rp,rp->r", y_ranks, y_ranks, counts)
    products = np.einsum("krp,rp->kr", ranks, y_ranks * counts)
    for name, values in (
        ("pearson", _weighted_pearson(x, y, counts)),
        ("spearman", _ratio(products, variances, y_variances, floor=1e-9)),
    ):
        lows, highs = _intervals(values[:, 1:], resampling.confidence)
        for entry, value, low, high in zip(entries, values[:, 0], lows, highs, strict=True):
            entry["reason"] = "one of the two does not vary" if np.isnan(value) else None
            ends = {name: value, f"{name}_low": low, f"{name}_high": high}
            entry |= {key: None if np.isnan(end) else float(end) for key, end in ends.items()}
    return entries


def _weighted_pearson(x: Array, y: Array, counts: Array) -> Array:
    """The correlation of each row of ``x`` (K, P) with ``y`` (P,) in each resample (K, R); NaN without variance."""
    x, y = _to_unit_range(x, counts[0] > 0), _to_unit_range(y[None], counts[0] > 0)[0]
    total = counts.sum(axis=1)
    sum_x, sum_y = x @ counts.T, counts @ y
    xx = (x * x) @ counts.T - sum_x**2 / total
    yy = counts @ (y * y) - sum_y**2 / total
    return _ratio((x * y) @ counts.T - sum_x * sum_y / total, xx, yy, floor=_NO_VARIANCE * total)


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
