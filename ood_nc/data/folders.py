"""The one reader of folders: what lies below one, in the order of the names, however large it is."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

_MOST_NAMES = 1000


class Found(NamedTuple):
    """An entry below a folder.

    Attributes:
        path: POSIX path relative to the folder.
        is_folder: whether it is one; links count as what they lead to.
        same_as: the path under which this folder was met before, through a link, else "".
        error: why a folder cannot be read, else None.
    """

    path: str
    is_folder: bool = False
    same_as: str = ""
    error: OSError | None = None


def walk(root: str) -> Iterator[Found]:
    """Every file and folder below ``root``, folder by folder, sorted by name; hidden folders are not entered.

    Every link is followed, so that a folder with two names is there twice. Only a link to a folder above itself, which
    would never end, is left out. A folder that cannot be read comes with its error, and costs no other.
    """
    first_names: dict[tuple[int, int], str] = {}
    visits: Counter[tuple[int, int]] = Counter()
    stack: list[tuple[Iterator[tuple[str, bool]], str, tuple[tuple[int, int], ...]]] = []

    def enter(path: str, above: tuple[tuple[int, int], ...]) -> Iterator[Found]:
        folder = os.path.join(root, path) if path else root  # noqa: PTH118 (once a folder, of which there may be many)
        try:
            status = os.stat(folder)  # noqa: PTH116
            here = status.st_dev, status.st_ino
            if here in above:
                return
            visits[here] += 1
            if visits[here] > _MOST_NAMES:
                raise OSError(errno.ELOOP, f"over {_MOST_NAMES} names lead to it, by links among each other", folder)
            with os.scandir(folder) as entries:
                listing = sorted((entry.name, _is_folder(entry)) for entry in entries)
        except OSError as error:
            yield Found(path, True, error=error)
            return
        if path:
            yield Found(path, True, same_as=first_names.get(here, ""))
        first_names.setdefault(here, path)
        stack.append((iter(listing), f"{path}/" if path else "", (*above, here)))

    yield from enter("", ())
    while stack:
        listing, prefix, above = stack[-1]
        name, is_folder = next(listing, ("", False))
        if not name:
            stack.pop()
        elif is_folder and not is_hidden(name):
            yield from enter(prefix + name, above)
        else:
            yield Found(prefix + name, is_folder)


def is_hidden(name: str) -> bool:
    """Whether an entry is passed over as hidden: a leading dot, or the clutter of macOS's archives."""
    return name.startswith(".") or name == "__MACOSX"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, say: read like an image, it gives the reason
        return False
