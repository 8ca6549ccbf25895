"""Bootstrap resamples of the detection metrics: every interval in the package is made here.

A resample of n scores is a vector of counts over the n ranks, so the scores are sorted once and a replicate is never a
new sort. How ranks are drawn does not depend on the scores: resamples of a set are drawn once for every score of it
(:func:`draw_ranks`), or sample by sample where two scores of the same samples are compared (:func:`draw_samples`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from ood_nc.arrays import ArrayLike
from ood_nc.errors import UserError
from ood_nc.scores.counts import Array, RankCounts, Side
from ood_nc.scores.ranking import as_scores, group_edges, measure_sorted, sort_scores
from ood_nc.scores.registry import METRICS

_GROUPS = 512
_GROUPS_PAIRED = 1024
"""Differences of two similar scores are small, so their replicates must be finer."""
_CELLS = 1 << 17
"""Counts at a time: a megabyte an array at most, which the next one finds in memory that is there already."""


@dataclass(frozen=True, eq=False)
class RankResamples:
    """Resamples of the ranks of one set of n samples.

    Up to 512 samples (1,024 of those drawn sample by sample) every rank is a group of its own and the resamples are
    exact. Beyond, neighbouring ranks share a group and counts in between are interpolated.

    Attributes:
        n: number of samples.
        edges: first rank of each group, and n (E + 1,).
        before: samples drawn below each edge, by replicate (R, E + 1).

    Example:
        >>> from ood_nc.scores import draw_ranks
        >>> drawn = draw_ranks(4, 2, seed=0)
        >>> drawn.n, drawn.edges.tolist()
        (4, [0, 1, 2, 3, 4])
    """

    n: int
    edges: Array
    before: Array

    @property
    def exact(self) -> bool:
        """Whether every rank is a group of its own."""
        return len(self.edges) == self.n + 1

    @cached_property
    def drawn(self) -> Array:
        """Samples drawn in each group of ranks (R, E)."""
        return _frozen(self.before[:, 1:] - self.before[:, :-1])

    @cached_property
    def above(self) -> Array:
        """Samples drawn in each group of ranks or above (R, E)."""
        return _frozen(self.n - self.before[:, :-1])

    def edges_below(self, count: int) -> Array:
        """Edges with fewer samples than this drawn below them, (R,)."""
        if count not in self._edges_below:
            self._edges_below[count] = np.count_nonzero(self.before < count, axis=1)
        return self._edges_below[count]

    @cached_property
    def _edges_below(self) -> dict[int, Array]:
        return {}

    def below(self, ranks: Array) -> Array:
        """Samples drawn below each of P ranks, (R, P)."""
        # Replicates lie side by side in memory, so a rank is one row to copy, or a mean of two as a sparse product.
        before = self.before.T
        if self.exact:
            if len(ranks) and np.array_equal(ranks, np.arange(ranks[0], ranks[0] + len(ranks))):
                return _frozen(before[ranks[0] : ranks[0] + len(ranks)].T)
            rows: Array = before.take(ranks, axis=0).T
            return rows
        low = np.minimum(np.searchsorted(self.edges, ranks, "right") - 1, len(self.edges) - 2)
        share = (ranks - self.edges[low]) / (self.edges[low + 1] - self.edges[low])
        weights = np.stack([1 - share, share], axis=1).ravel()
        columns, starts = np.stack([low, low + 1], axis=1).ravel(), np.arange(0, 2 * len(low) + 1, 2)
        found: Array = (csr_array((weights, columns, starts), shape=(len(low), len(before))) @ before).T
        return found


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
        found: Array = np.clip(
            self._sides[side].edges_below(count) - ranks.start - through, 0, ranks.stop - ranks.start
        )
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


def draw_ranks(n: int, replicates: int, seed: int | Sequence[int]) -> RankResamples:
    """Draw ``replicates`` resamples of ``n`` samples by their rank, for any score of them on its own.

    Example:
        >>> from ood_nc.scores import draw_ranks
        >>> drawn = draw_ranks(4, 2, seed=0)
        >>> drawn.before[:, -1].tolist()  # every resample has n samples
        [4.0, 4.0]
    """
    edges = _edges(n, _GROUPS)
    sizes = np.diff(edges)
    generator = np.random.default_rng(seed)
    if n > 64 * len(sizes):
        # Few groups of many: one binomial draw a group is cheaper than one uniform draw a sample.
        drawn = generator.multinomial(n, sizes / n, size=replicates)
    else:
        group_of = np.repeat(np.arange(len(sizes)), sizes)
        draws = (generator.integers(0, max(n, 1), n) for _ in range(replicates))
        rows = [np.bincount(group_of[draw], minlength=len(sizes)) for draw in draws]
        drawn = np.array(rows).reshape(replicates, len(sizes))
    return RankResamples(n, edges, _summed(drawn.T))


def draw_samples(n: int, replicates: int, seed: int | Sequence[int]) -> Array:
    """How often each of ``n`` samples is drawn in each replicate, (replicates, n) uint8, for paired comparisons.

    Example:
        >>> from ood_nc.scores import draw_samples
        >>> draw_samples(4, 2, seed=0).sum(axis=1).tolist()
        [4, 4]
    """
    counts = np.empty((replicates, n), dtype=np.uint8)
    generator = np.random.default_rng(seed)
    for row in counts:
        row[:] = np.bincount(generator.integers(0, n, size=n, dtype=np.int32), minlength=n)
    # Replicates side by side, as a sum over samples wants them.
    by_sample: Array = np.ascontiguousarray(counts.T).T
    return by_sample


def ranks_of_samples(counts: Array, scores: ArrayLike) -> RankResamples:
    """The resamples of :func:`draw_samples` as ranks of one score of the samples (n,).

    Example:
        >>> from ood_nc.scores import draw_samples, ranks_of_samples
        >>> ranks_of_samples(draw_samples(3, 2, seed=0), [0.5, 0.1, 0.3]).before.shape
        (2, 4)
    """
    order = np.argsort(as_scores(scores, "scores"), kind="stable")
    # No more than 64 samples a group: their sum is far below 256.
    edges = _edges(len(order), max(_GROUPS_PAIRED, len(order) // 64))
    groups = csr_array((np.ones_like(order, dtype=np.uint8), order, edges), shape=(len(edges) - 1, len(order)))
    return RankResamples(len(order), edges, _summed(groups @ counts.T))


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
        kept = np.unique(np.searchsorted(id_edges + ood_edges, _edges(n + m, max(groups))))
        id_edges, ood_edges = id_edges[kept], ood_edges[kept]
    sides: dict[Side, RankResamples] = {"id": id_resamples, "ood": ood_resamples}
    stretches = []
    step = max(1, _CELLS // max(1, len(id_resamples.before)))
    for start in range(0, len(id_edges) - 1, step):
        at = slice(start, start + step + 1)
        counts = _Drawn(sides, {"id": id_edges[at], "ood": ood_edges[at]}, spread)
        stretches.append([metric(counts) for metric in chosen])
    found = {}
    for name, metric, value, parts in zip(names, chosen, exact, zip(*stretches, strict=True), strict=True):
        replicates = metric.reduce(parts)
        if spread:
            grouped = [RankCounts(n, m, id_edges[None], ood_edges[None], spread=inside) for inside in (False, True)]
            whole, inside = (metric.reduce([metric(counts)]) for counts in grouped)
            # What a metric reads inside of groups is right on average; at one place it would be off for all resamples.
            replicates = replicates + (value - whole if whole == inside else 0)
        found[name] = np.append(value, np.clip(replicates, 0, 1))
    return found


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
    ends = np.quantile(np.stack([values[1:] for values in found.values()]), quantiles, axis=1)
    return dict(zip(found, zip(*ends.tolist(), strict=True), strict=True))


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


def _frozen(counts: Array) -> Array:
    """Counts that several scores are measured by: a formula that wrote to them would change those of the next."""
    counts.flags.writeable = False
    return counts


def _summed(drawn: Array) -> Array:
    """Samples drawn below each edge (R, E + 1), from those in each group of ranks (E, R)."""
    sums: Array = np.empty((len(drawn) + 1, drawn.shape[1]))
    sums[0], sums[1:] = 0, drawn
    # Row by row, all in one type: three times as fast as a sum along the first axis.
    for here, through in pairwise(sums):
        np.add(here, through, out=through)
    before: Array = sums.T
    return before


def _edges(n: int, groups: int) -> Array:
    """Edges of at most so many groups of n ranks."""
    groups = min(n, groups)
    return np.arange(groups + 1) * n // max(groups, 1)
