"""The named errors of scores; each message is one line."""

from __future__ import annotations

from typing import Any

import numpy as np

from ood_nc.errors import UserError


class EmptySideError(UserError):
    """A side that a metric or a threshold is made of holds no scores, so the result is undefined (never 0)."""

    def __init__(self, id_count: int, ood_count: int, side: str | None = None) -> None:
        self.id_count = id_count
        self.ood_count = ood_count
        if side is None:
            side = "ID" if ood_count else "OOD" if id_count else "ID and the OOD"
            super().__init__(f"The {side} side holds no scores ({id_count} ID, {ood_count} OOD): metric undefined.")
        else:
            super().__init__(f"There are no {side} scores: the result is undefined.")


class NanScoreError(UserError):
    """Scores hold NaN, which has no rank."""

    def __init__(self, name: str, count: int, first: int, total: int) -> None:
        self.count = count
        self.first = first
        super().__init__(f"{name} holds {count} NaN of {total}, the first at index {first}: leave these samples out.")


def refuse_nan(values: np.ndarray[Any, Any], name: str) -> None:
    """Raise `NanScoreError` where values (N,), or a row of them (N, m), hold NaN."""
    holds = np.isnan(values)
    bad = np.flatnonzero(holds if values.ndim == 1 else holds.any(axis=1))
    if len(bad):
        raise NanScoreError(name, len(bad), int(bad[0]), len(values))
