"""What a detection metric is made of: how many ID and OOD samples lie below, at and above each score."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np

from ood_nc.caching import cached_property
from ood_nc.errors import UserError

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Side = Literal["id", "ood"]


class RankCounts:
    """Counts around groups of tied scores in ascending order, in each of R resamples; every array is (R, G).

    The scores as they are make one resample (R = 1) in which every sample counts once. G may be a stretch of all
    groups, and a group may hold no sample of a resample. Counts of resamples can be fractions.

    Args:
        n: ID samples in all.
        m: OOD samples in all.
        id_before: ID samples below each of the G + 1 edges of the groups, (R, G + 1).
        ood_before: OOD samples likewise.
        spread: the groups are neighbouring scores, evenly spread, instead of tied ones; a metric that reads counts at
            one threshold may look inside.

    Example:
        Two ID samples at 1 and 2, two OOD samples at 0 and 1, so groups at 0, 1 and 2.

        >>> import numpy as np
        >>> counts = RankCounts(2, 2, np.array([[0, 0, 1, 2]]), np.array([[0, 1, 2, 2]]))
        >>> counts.id.tolist(), counts.ood.tolist()
        ([[0, 1, 1]], [[1, 1, 0]])
        >>> counts.id_above.tolist(), counts.ood_above.tolist()
        ([[2, 2, 1]], [[2, 1, 0]])
        >>> counts.at_id.ood_below.tolist()
        [[1, 2]]
    """

    def __init__(self, n: int, m: int, id_before: Array, ood_before: Array, *, spread: bool = False) -> None:
        self.n = n
        self.m = m
        self.spread = spread
        self._before = {"id": id_before, "ood": ood_before}

    def _count(self, side: Side, *, through: bool) -> Array:
        return self._before[side][:, 1:] if through else self._before[side][:, :-1]

    @cached_property
    def id_below(self) -> Array:
        """ID samples below each group."""
        return self._count("id", through=False)

    @cached_property
    def id_through(self) -> Array:
        """ID samples in each group or below."""
        return self._count("id", through=True)

    @cached_property
    def ood_below(self) -> Array:
        """OOD samples below each group."""
        return self._count("ood", through=False)

    @cached_property
    def ood_through(self) -> Array:
        """OOD samples in each group or below."""
        return self._count("ood", through=True)

    @cached_property
    def id(self) -> Array:
        """ID samples in each group."""
        return self.id_through - self.id_below

    @cached_property
    def ood(self) -> Array:
        """OOD samples in each group."""
        return self.ood_through - self.ood_below

    @cached_property
    def id_above(self) -> Array:
        """ID samples in each group or above: those that a threshold there accepts."""
        return self.n - self.id_below

    @cached_property
    def ood_above(self) -> Array:
        """OOD samples in each group or above."""
        return self.m - self.ood_below

    @cached_property
    def at_id(self) -> RankCounts:
        """These counts without groups that hold no ID sample: half of the work where scores do not tie."""
        return self._where(self.id_through > self.id_below)

    @cached_property
    def at_ood(self) -> RankCounts:
        """These counts without groups that hold no OOD sample."""
        return self._where(self.ood_through > self.ood_below)

    def id_sum(self, values: Array) -> Array:
        """The sum over ID samples of what each has in its group, (R,)."""
        return _row_products(self.id, values)

    def ood_sum(self, values: Array) -> Array:
        """The sum over OOD samples."""
        return _row_products(self.ood, values)

    def groups_below(self, side: Side, count: int, *, through: bool) -> Array:
        """How many groups have fewer than ``count`` samples of a side below them, or through them, (R,)."""
        if side == "id":
            return _entries_below(self.id_through if through else self.id_below, count)
        return _entries_below(self.ood_through if through else self.ood_below, count)

    def _where(self, held: Array) -> RankCounts:
        groups = np.flatnonzero(held.any(axis=0))
        return _Chosen(self, groups) if 0 < len(groups) < 0.75 * held.shape[1] else self


class _Chosen(RankCounts):
    """Some of the groups."""

    def __init__(self, counts: RankCounts, groups: Array) -> None:
        super().__init__(counts.n, counts.m, counts._before["id"], counts._before["ood"], spread=counts.spread)
        self._groups = groups

    def _count(self, side: Side, *, through: bool) -> Array:
        found: Array = self._before[side].T.take(self._groups + through, axis=0).T
        return found


class SampleCounts(RankCounts):
    """Counts of the scores as they are, every sample once, found in the sorted scores when asked for.

    Args:
        n: ID samples in all.
        m: OOD samples in all.
        id_sorted: a stretch of the ID scores, ascending and not empty; no score outside it lies between them.
        ood_sorted: the OOD scores among them.
        skipped: ID and OOD samples below the stretch.
    """

    def __init__(self, n: int, m: int, id_sorted: Array, ood_sorted: Array, skipped: tuple[int, int]) -> None:
        self.n, self.m, self.spread = n, m, False
        self._sides = {"id": id_sorted, "ood": ood_sorted}
        self._skipped = {"id": skipped[0], "ood": skipped[1]}

    @cached_property
    def _scores(self) -> Array:
        """Those that the counts are around."""
        return np.unique(np.concatenate(list(self._sides.values())))

    @cached_property
    def _from_id(self) -> Array:
        """Whether each score of the merged sides is an ID one; of tied ones those come first."""
        # A stable sort of two sorted runs is one merge.
        return np.argsort(np.concatenate(list(self._sides.values())), kind="stable") < len(self._sides["id"])

    @cached_property
    def at_id(self) -> RankCounts:
        """Counts at every ID sample."""
        return _Each(self, "id", self._from_id)

    @cached_property
    def at_ood(self) -> RankCounts:
        """Counts at every OOD sample."""
        return _Each(self, "ood", ~self._from_id) if len(self._sides["ood"]) else self

    def _count(self, side: Side, *, through: bool) -> Array:
        found: Array = np.searchsorted(self._sides[side], self._scores, "right" if through else "left")[None]
        found += self._skipped[side]
        return found


class _Each(SampleCounts):
    """The counts at every sample of one side: a group comes once for each of them, and stands for that one."""

    def __init__(self, counts: SampleCounts, of: Side, here: Array) -> None:
        # No reference to what refers to this: the memory of a stretch is for the next one at once.
        skipped = counts._skipped["id"], counts._skipped["ood"]
        super().__init__(counts.n, counts.m, counts._sides["id"], counts._sides["ood"], skipped)
        self._of = of
        self._scores = self._sides[of]
        self._other = np.flatnonzero(here)
        self._other -= np.arange(len(self._other))

    def _count(self, side: Side, *, through: bool) -> Array:
        # Right without ties; those that tie are looked up. Formulas divide: float64 from the start is faster.
        at, ordered, start = self._scores, self._sides[side], self._skipped[side]
        tied = np.empty(0, dtype=np.int64)
        if side == self._of:
            found: Array = np.arange(start + through, start + through + len(at), dtype=np.float64)
            tied = np.flatnonzero(at[1:] == at[:-1]) + (not through)
        else:
            found = self._other + float(start)
            if through == (self._of == "id") and len(ordered):
                tied = np.flatnonzero(ordered.take(self._other - (not through), mode="clip") == at)
        if len(tied):
            found[tied] = np.searchsorted(ordered, at[tied], "right" if through else "left") + start
        return found[None]

    @cached_property
    def id(self) -> Array:
        """ID samples that each entry stands for."""
        return np.ones_like(self.id_below) if self._of == "id" else self.id_through - self.id_below

    @cached_property
    def ood(self) -> Array:
        """OOD samples that each entry stands for."""
        return np.ones_like(self.ood_below) if self._of == "ood" else self.ood_through - self.ood_below

    def id_sum(self, values: Array) -> Array:
        """The sum over ID samples."""
        return _row_sums(values) if self._of == "id" else super().id_sum(values)

    def ood_sum(self, values: Array) -> Array:
        """The sum over OOD samples."""
        return _row_sums(values) if self._of == "ood" else super().ood_sum(values)


def check_side(positive: str) -> None:
    """Raise `UserError` where it is no side."""
    if positive not in ("id", "ood"):
        raise UserError(f"positive must be 'id' or 'ood', got {positive!r}.")


def _entries_below(rows: Array, count: int) -> Array:
    """How many entries of each ascending row of counts are below one count, (R,)."""
    if len(rows) == 1:
        return np.searchsorted(rows[0], np.array([count]))
    # Most stretches of groups lie on one side of a threshold, which their ends tell.
    if len(rows) and (rows[:, -1].max() < count or rows[:, 0].min() >= count):
        return np.full(len(rows), 0 if rows[0, 0] >= count else rows.shape[1])
    found: Array = np.count_nonzero(rows < count, axis=-1)
    return found


def _row_products(counts: Array, values: Array) -> Array:
    products: Array = np.einsum("rg,rg->r", counts, values)
    return products.astype(np.float64, copy=False)


def _row_sums(values: Array) -> Array:
    sums: Array = values.sum(axis=-1)
    return sums
