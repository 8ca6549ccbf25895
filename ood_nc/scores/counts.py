"""What a detection metric is made of: how many ID and OOD samples lie below, at and above each score."""

from __future__ import annotations

from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class RankCounts:
    """Counts around groups of tied scores in ascending order, in each of R resamples; every array is (R, G).

    The scores as they are make one resample (R = 1) in which every sample counts once. G may be a stretch of all
    groups, and a group may hold no sample of a resample. Counts of resamples can be fractions.

    Args:
        n: ID samples in all.
        m: OOD samples in all.
        id_before: ID samples below each of the G + 1 edges of the groups, (R, G + 1).
        ood_before: OOD samples likewise.

    Example:
        Two ID samples at 1 and 2, two OOD samples at 0 and 1, so groups at 0, 1 and 2.

        >>> import numpy as np
        >>> counts = RankCounts(2, 2, np.array([[0, 0, 1, 2]]), np.array([[0, 1, 2, 2]]))
        >>> counts.id.tolist(), counts.ood.tolist()
        ([[0, 1, 1]], [[1, 1, 0]])
        >>> counts.id_above.tolist(), counts.ood_above.tolist()
        ([[2, 2, 1]], [[2, 1, 0]])
    """

    def __init__(self, n: int, m: int, id_before: Array, ood_before: Array) -> None:
        self.n = n
        self.m = m
        self.id_below = id_before[:, :-1]
        self.id_through = id_before[:, 1:]
        self.ood_below = ood_before[:, :-1]
        self.ood_through = ood_before[:, 1:]

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
