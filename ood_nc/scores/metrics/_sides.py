"""Which side is the positive one."""

from __future__ import annotations

from typing import Literal

from ood_nc.errors import UserError

Side = Literal["id", "ood"]


def check_side(positive: str) -> None:
    """Refuse a side that there is not.

    Raises:
        UserError: naming it.
    """
    if positive not in ("id", "ood"):
        raise UserError(f"positive must be 'id' or 'ood', got {positive!r}.")
