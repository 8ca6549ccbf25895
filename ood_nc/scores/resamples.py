"""Resamples of a set, as counts over its ranks.

How ranks are drawn does not depend on the scores: resamples of a set are drawn once for every score of it
(:func:`draw_ranks`), or sample by sample where two scores of the same samples are compared (:func:`draw_samples`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.sparse import csr_array

from ood_nc.arrays import ArrayLike
from ood_nc.caching import cached_property
from ood_nc.scores.counts import Array
from ood_nc.scores.ranking import as_scores

_EXACT = 1 << 24
"""Counts up to this are exact in float32, in half of the memory and time of float64."""

_DRAWN = 1 << 16
"""Samples that are drawn at a time."""

_GROUPS = 512
_GROUPS_PAIRED = 1024
"""Differences of two similar scores are small, so their replicates must be finer."""


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
        weights = np.stack([1 - share, share], axis=1).ravel().astype(before.dtype)
        columns, starts = np.stack([low, low + 1], axis=1).ravel(), np.arange(0, 2 * len(low) + 1, 2)
        found: Array = (csr_array((weights, columns, starts), shape=(len(low), len(before))) @ before).T
        return found


def draw_ranks(n: int, replicates: int, seed: int | Sequence[int]) -> RankResamples:
    """Draw ``replicates`` resamples of ``n`` samples by their rank, for any score of them on its own.

    Example:
        >>> from ood_nc.scores import draw_ranks
        >>> drawn = draw_ranks(4, 2, seed=0)
        >>> drawn.before[:, -1].tolist()  # every resample has n samples
        [4.0, 4.0]
    """
    edges = rank_edges(n, _GROUPS)
    sizes = np.diff(edges)
    generator = np.random.default_rng(seed)
    if n > 64 * len(sizes):
        # Few groups of many: one binomial draw a group is cheaper than one uniform draw a sample.
        drawn = generator.multinomial(n, sizes / n, size=replicates)
    else:
        group_of = np.repeat(np.arange(len(sizes)), sizes)
        drawn = np.empty((replicates, len(sizes)), dtype=np.int64)
        for some in np.array_split(drawn, max(1, replicates * n // _DRAWN)):
            groups = group_of[generator.integers(0, max(n, 1), (len(some), n))]
            groups += len(sizes) * np.arange(len(some))[:, None]
            some[:] = np.bincount(groups.ravel(), minlength=some.size).reshape(some.shape)
    return RankResamples(n, edges, _summed(drawn.T, n))


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
    edges = rank_edges(len(order), max(_GROUPS_PAIRED, len(order) // 64))
    groups = csr_array((np.ones_like(order, dtype=np.uint8), order, edges), shape=(len(edges) - 1, len(order)))
    return RankResamples(len(order), edges, _summed(groups @ counts.T, len(order)))


def _frozen(counts: Array) -> Array:
    """Counts that several scores are measured by: a formula that wrote to them would change those of the next."""
    counts.flags.writeable = False
    return counts


def _summed(drawn: Array, n: int) -> Array:
    """Of n samples those drawn below each edge (R, E + 1), from those in each group of ranks (E, R)."""
    sums: Array = np.empty((len(drawn) + 1, drawn.shape[1]), dtype=np.float32 if n < _EXACT else np.float64)
    sums[0], sums[1:] = 0, drawn
    # Row by row, all in one type: three times as fast as a sum along the first axis.
    for here, through in pairwise(sums):
        np.add(here, through, out=through)
    before: Array = sums.T
    return before


def rank_edges(n: int, groups: int) -> Array:
    """The edges of at most so many groups of n ranks."""
    groups = min(n, groups)
    return np.arange(groups + 1) * n // max(groups, 1)
