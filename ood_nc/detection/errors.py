"""The named errors of the detection room; each message is one line."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ood_nc.accumulate import pieces
from ood_nc.errors import UserError


class NonFiniteError(UserError):
    """Features, logits, images, or the scores computed from them hold NaN or infinity.

    Args:
        name: of what holds them.
        count: number of such rows.
        first: index of the first.
        total: number of rows.
        advice: what to do.
    """

    def __init__(self, name: str, count: int, first: int, total: int, advice: str = "leave those samples out") -> None:
        self.count = count
        self.first = first
        super().__init__(f"{name}: {count} of {total} rows hold NaN or infinity, the first is row {first}: {advice}.")


def check_finite(rows: Tensor, name: str, advice: str = "leave those samples out", first_row: int = 0) -> None:
    """Raise :class:`NonFiniteError` where a row of (N, ...) holds NaN or infinity; count rows from ``first_row``."""
    # One sum of all rows first, which takes no memory where they need no other type.
    if rows.dtype in (torch.float32, torch.float64) and bool(torch.isfinite(rows.sum())):
        return
    bad = [place for piece in pieces(rows, torch.float32) for place in _not_finite(rows[piece], piece.start)]
    if bad:
        raise NonFiniteError(name, len(bad), first_row + bad[0], first_row + len(rows), advice)


def _not_finite(rows: Tensor, first: int) -> list[int]:
    """The numbers of the rows, counted from ``first``, of a piece: a mask of all rows would be as large as they are."""
    # A finite sum proves finite rows at the price of one pass; only otherwise is every row looked at.
    if bool(torch.isfinite(rows.sum(dtype=torch.promote_types(rows.dtype, torch.float32)))):
        return []
    finite = torch.isfinite(rows.flatten(1) if rows.ndim > 1 else rows[:, None]).all(dim=1)
    return [first + place for place in (~finite).nonzero()[:, 0].tolist()]


class MissingInputError(UserError):
    """``fit`` or ``score`` lacks an input that the detector requires."""

    def __init__(self, detector: str, missing: Iterable[str], requires: Iterable[str], where: str) -> None:
        self.missing = frozenset(missing)
        super().__init__(
            f"Detector {detector!r} lacks {_listed(self.missing)} in {where}; it requires {_listed(requires)}."
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
