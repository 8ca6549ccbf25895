"""Bootstrap resamples of the detection metrics: every interval in the package is made here.

A resample of n scores is a vector of counts over the n ranks, so the scores are sorted once and a replicate is never a
new sort (`ood_nc.scores.resamples`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ood_nc.arrays import ArrayLike
from ood_nc.caching import cached_property
from ood_nc.errors import UserError
from ood_nc.scores.counts import Array, RankCounts, Side
from ood_nc.scores.ranking import as_scores, group_edges, measure_sorted, sort_scores
from ood_nc.scores.registry import METRICS
from ood_nc.scores.resamples import RankResamples, draw_ranks, rank_edges

_CELLS = 1 << 20
"""Counts at a time: eight megabytes an array at most."""


class _Drawn(RankCounts):
    """Counts of resamples, each found when a metric asks for it.

    Which groups hold a sample, and where two counts are the same, is known before anything is drawn.
    """

    def __init__(
        self,
        sides: Mapping[Side, RankResamples],
        edges: Mapping[Side, Array],
        spread: bool,
        groups: Array | None = None,
    ) -> None:
        super().__init__(sides["id"].n, sides["ood"].n, np.empty((0, 0)), np.empty((0, 0)), spread=spread)
        self._sides, self._edges, self._groups = sides, edges, groups
        self._before = {}
        self._held: dict[Side, slice | None] = {}

    def _count(self, side: Side, *, through: bool) -> Array:
        edges, below = self._edges[side], self._sides[side].below
        if self._groups is None:
            if side not in self._before:
                self._before[side] = below(edges)
            return super()._count(side, through=through)
        begin, end = edges[self._groups], edges[self._groups + 1]
        if through and np.array_equal(begin, end):
            return self.id_below if side == "id" else self.ood_below
        return below(end if through else begin)

    def _ranks(self, side: Side) -> slice | None:
        """The ranks of a side that the groups hold, where each holds one and no rank lies between.

        What such groups count of their own side is the same for every score, and found once.
        """
        if side not in self._held:
            edges = self._edges[side]
            begin = edges[:-1] if self._groups is None else edges[self._groups]
            first, count = int(begin[0]), len(begin)
            # Edges do not go back, so ends that are as far apart as there are groups say it of all between.
            last = int(edges[-1] if self._groups is None else edges[self._groups[-1] + 1])
            single = last - first == count and bool((begin == np.arange(first, last)).all())
            self._held[side] = slice(first, last) if single and self._sides[side].exact else None
        return self._held[side]

    @cached_property
    def id(self) -> Array:
        """ID samples in each group."""
        ranks = self._ranks("id")
        return self.id_through - self.id_below if ranks is None else self._sides["id"].drawn[:, ranks]

    @cached_property
    def ood(self) -> Array:
        """OOD samples in each group."""
        ranks = self._ranks("ood")
        return self.ood_through - self.ood_below if ranks is None else self._sides["ood"].drawn[:, ranks]

    @cached_property
    def id_above(self) -> Array:
        """ID samples in each group or above."""
        ranks = self._ranks("id")
        return self.n - self.id_below if ranks is None else self._sides["id"].above[:, ranks]

    def groups_below(self, side: Side, count: int, *, through: bool) -> Array:
        """How many groups have fewer than ``count`` samples of a side below them, or through them, (R,)."""
        ranks = self._ranks(side)
        if ranks is None:
            return super().groups_below(side, count, through=through)
        found: Array = self._sides[side].edges_below(count) - (ranks.start + through)
        # What np.clip does, without what it takes to do it for any array.
        np.minimum(np.maximum(found, 0, out=found), ranks.stop - ranks.start, out=found)
        return found

    @cached_property
    def at_id(self) -> RankCounts:
        """The counts without groups that hold no ID sample."""
        return self._holding("id")

    @cached_property
    def at_ood(self) -> RankCounts:
        """The counts without groups that hold no OOD sample."""
        return self._holding("ood")

    def _holding(self, side: Side) -> RankCounts:
        edges = self._edges[side]
        held = np.flatnonzero(edges[1:] > edges[:-1])
        if not 0 < len(held) < 0.75 * (len(edges) - 1):
            return self
        return _Drawn(self._sides, self._edges, self.spread, held)


def resampled_metrics(
    id_scores: ArrayLike,
    ood_scores: ArrayLike,
    id_resamples: RankResamples,
    ood_resamples: RankResamples,
    metrics: Sequence[str] | None = None,
) -> dict[str, Array]:
    """Detection metrics of the scores as they are and of each resample.

    As many distinct scores as there are groups of ranks on both sides are told apart, and with so few a resample is
    exact. Of more, neighbouring scores are taken together, and a resample's deviation from the value of these
    groups is added to the exact one.

    Args:
        id_scores: (n,), larger = more in-distribution.
        ood_scores: (m,).
        id_resamples: of the n ID samples.
        ood_resamples: of the m OOD samples; as many.
        metrics: names out of `METRICS`; None: all.

    Returns:
        By metric (1 + R,): first the value, then those of the resamples.

    Raises:
        EmptySideError, NanScoreError: a side holds no scores, or NaN.
        UserError: unknown metric, or resamples of another number of samples.

    Example:
        >>> from ood_nc.scores import draw_ranks, resampled_metrics
        >>> found = resampled_metrics([2.0, 3.0], [0.0, 1.0], draw_ranks(2, 5, 0), draw_ranks(2, 5, 1), ["auroc"])
        >>> found["auroc"].tolist()
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    names = list(METRICS if metrics is None else metrics)
    chosen = [METRICS[name] for name in names]
    scores = sort_scores(id_scores, ood_scores)
    n, m = len(scores.id), len(scores.ood)
    if (n, m) != (id_resamples.n, ood_resamples.n):
        raise UserError(f"Resamples of {id_resamples.n} + {ood_resamples.n} samples for {n} + {m} scores.")
    exact = measure_sorted(scores, chosen)
    id_edges, ood_edges = group_edges(*scores)
    groups = [len(side.edges) - 1 for side in (id_resamples, ood_resamples)]
    spread = len(id_edges) > sum(groups) + 1
    if spread:
        kept = np.unique(np.searchsorted(id_edges + ood_edges, rank_edges(n + m, max(groups))))
        id_edges, ood_edges = id_edges[kept], ood_edges[kept]
    sides: dict[Side, RankResamples] = {"id": id_resamples, "ood": ood_resamples}
    stretches = []
    step = max(1, _CELLS // max(1, len(id_resamples.before)))
    for start in range(0, len(id_edges) - 1, step):
        at = slice(start, start + step + 1)
        counts = _Drawn(sides, {"id": id_edges[at], "ood": ood_edges[at]}, spread)
        stretches.append([metric(counts) for metric in chosen])
    found = np.empty((len(names), 1 + len(id_resamples.before)))
    for row, metric, value, parts in zip(found, chosen, exact, zip(*stretches, strict=True), strict=True):
        replicates = metric.reduce(parts)
        if spread:
            grouped = [RankCounts(n, m, id_edges[None], ood_edges[None], spread=inside) for inside in (False, True)]
            whole, inside = (metric.reduce([metric(counts)]) for counts in grouped)
            # What a metric reads inside of groups is right on average; at one place it would be off for all resamples.
            replicates = replicates + (value - whole if whole == inside else 0)
        row[0], row[1:] = value, replicates
    np.clip(found[:, 1:], 0, 1, out=found[:, 1:])
    return dict(zip(names, found, strict=True))


def percentile_interval(replicates: Array, confidence: float = 0.95) -> tuple[float | None, float | None]:
    """The percentile interval (low, high) of bootstrap replicates; (None, None) where there are none.

    Raises:
        UserError: ``confidence`` out of range.

    Example:
        >>> import numpy as np
        >>> from ood_nc.scores import percentile_interval
        >>> percentile_interval(np.arange(101.0), confidence=0.5)
        (25.0, 75.0)
    """
    quantiles = _quantiles(confidence)
    if len(replicates) == 0:
        return None, None
    low, high = np.quantile(replicates, quantiles)
    return float(low), float(high)


def percentile_intervals(found: Mapping[str, Array], confidence: float = 0.95) -> dict[str, tuple[Any, Any]]:
    """The percentile intervals of several metrics at once, from what `resampled_metrics` gives.

    Example:
        >>> import numpy as np
        >>> from ood_nc.scores import percentile_intervals
        >>> percentile_intervals({"auroc": np.append(0.5, np.arange(101.0))}, confidence=0.5)
        {'auroc': (25.0, 75.0)}
    """
    quantiles = _quantiles(confidence)
    if any(len(values) < 2 for values in found.values()):
        return dict.fromkeys(found, (None, None))
    # What np.quantile does, without what it takes to do it for any array: intervals are asked for by the hundred.
    ordered = np.sort(np.stack([values[1:] for values in found.values()]), axis=1)
    position = np.asarray(quantiles) * (ordered.shape[1] - 1)
    low = position.astype(np.intp)
    below, above = ordered[:, low], ordered[:, np.minimum(low + 1, ordered.shape[1] - 1)]
    ends = below + (above - below) * (position - low)
    return dict(zip(found, map(tuple, ends.tolist()), strict=True))


def bootstrap_intervals(
    id_scores: ArrayLike,
    ood_scores: ArrayLike,
    metrics: Sequence[str] | None = None,
    replicates: int = 500,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap intervals; each side is resampled on its own, so n and m stay fixed.

    Args:
        id_scores: shape (n,), larger = more in-distribution.
        ood_scores: shape (m,).
        metrics: names out of `METRICS`; None: all.
        replicates: resamples, at least 1.
        confidence: share of replicates inside the interval, in (0, 1).
        seed: of the resampling; equal seeds give equal intervals.

    Returns:
        Metric name to (low, high).

    Raises:
        EmptySideError, NanScoreError: a side holds no scores, or NaN.
        UserError: unknown metric, or an argument out of range.

    Example:
        >>> import numpy as np
        >>> from ood_nc.scores import bootstrap_intervals
        >>> rng = np.random.default_rng(0)
        >>> low, high = bootstrap_intervals(rng.normal(1, 1, 500), rng.normal(0, 1, 500), ["auroc"])["auroc"]
        >>> low < 0.76 < high and high - low < 0.07
        True
    """
    check_replicates(replicates)
    sizes = [len(as_scores(side, name)) for side, name in ((id_scores, "id_scores"), (ood_scores, "ood_scores"))]
    drawn = [draw_ranks(size, replicates, [seed, side]) for side, size in enumerate(sizes)]
    found = resampled_metrics(id_scores, ood_scores, drawn[0], drawn[1], metrics)
    return percentile_intervals(found, confidence)


def check_replicates(replicates: int) -> None:
    """Raise `UserError` where there are no replicates."""
    if replicates < 1:
        raise UserError(f"replicates must be at least 1, got {replicates}.")


def _quantiles(confidence: float) -> list[float]:
    if not 0 < confidence < 1:
        raise UserError(f"confidence must be in (0, 1), got {confidence}.")
    return [(1 - confidence) / 2, (1 + confidence) / 2]
