"""Where a command may write a file that replaces one of its own kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ood_nc.errors import UserError


def check_place(file: Path, kind: str, is_of_kind: Callable[[dict[str, Any]], bool]) -> None:
    """Refuse to write over a file of another kind: a checkpoint or an image, for a slip in -o.

    Args:
        file: where the command writes.
        kind: what it writes.
        is_of_kind: whether a header (`ood_nc.sealed`) is of such a file.

    Raises:
        UserError: another file is there.
    """
    from ood_nc.sealed import read_sealed

    if not file.is_file():
        return
    try:
        known = is_of_kind(read_sealed(file, with_tensors=False)[0])
    except UserError:
        known = False
    if not known:
        raise UserError(f"{file} is there and is no {kind}: remove it, or choose another -o.")
