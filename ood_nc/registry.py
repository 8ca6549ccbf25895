"""Names to objects of one kind: those of this package, and those that other packages declare as entry points."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from ood_nc.errors import UserError, nearest

Entry = TypeVar("Entry")


class Registry(Mapping[str, Entry]):
    """A mapping of names to losses, detectors, data sources: whatever one extension point takes.

    Ours are added where they are defined. Another package declares its own, name to object, and installing it is all
    that is needed; its code is imported when the name is first used::

        [project.entry-points."ood_nc.losses"]
        my_loss = "my_package:my_loss"

    Iteration gives ours in the order of their definition, then theirs by name. A name of ours stays ours.

    Args:
        kind: what one is called in messages ("loss").
        group: the entry-point group.
        fault: says what is wrong with an object that is no such thing ("is no function"), or None.
        package: the package whose modules define ours; they are imported when the first name is asked for.

    Example:
        >>> shapes = Registry("shape", "example.shapes")
        >>> shapes.add("square", lambda side: side**2)(3)
        9
        >>> shapes["squire"]
        Traceback (most recent call last):
        ood_nc.errors.UserError: Unknown shape 'squire'. Did you mean 'square'? Known: square.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        *,
        fault: Callable[[object], str | None] = lambda entry: None,
        package: str | None = None,
    ) -> None:
        self.kind = kind
        self.group = group
        self._fault = fault
        self._package = package
        self._entries: dict[str, Entry] = {}
        self._foreign: dict[EntryPoint, Entry] = {}

    def add(self, name: str, entry: Entry) -> Entry:
        """Make ``entry`` known under ``name`` and return it. The same definition may come twice, as on a reload.

        Raises:
            UserError: it is no such thing, or the name is taken by another.
        """
        if (fault := self._fault(entry)) is not None:
            raise UserError(f"{self.kind.capitalize()} {name!r} {fault}.")
        known = self._entries.setdefault(name, entry)
        if _origin(known) != _origin(entry):
            raise UserError(f"{self.kind.capitalize()} name {name!r} is taken by {'.'.join(_origin(known))}.")
        self._entries[name] = entry
        return entry

    def names(self, pattern: str = "*") -> list[str]:
        """All names that match a glob, sorted; nothing of another package is imported for it."""
        return sorted(name for name in self if fnmatchcase(name, pattern))

    def __getitem__(self, name: str) -> Entry:
        """The object of that name.

        Raises:
            UserError: unknown name (with the nearest one), or a plug-in that cannot be imported, is no such thing or is
                declared by two packages.
        """
        self._define_ours()
        if name in self._entries:
            return self._entries[name]
        points = self._points().get(name)
        if points is None:
            known = self.names()
            which = f"Known: {', '.join(known)}." if len(known) <= 12 else "See `ood-nc list`."
            raise UserError(f"Unknown {self.kind} {name!r}.{nearest(name, known)} {which}")
        if len(points) > 1:
            both = " and ".join(sorted(point.value for point in points))
            raise UserError(f"Two installed packages declare a {self.kind} {name!r}: {both}. Uninstall one.")
        (point,) = points
        if point not in self._foreign:
            self._foreign[point] = self._import(point)
        return self._foreign[point]

    def __iter__(self) -> Iterator[str]:
        self._define_ours()
        return iter([*self._entries, *sorted(self._points().keys() - self._entries.keys())])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        self._define_ours()
        return name in self._entries or name in self._points()

    def _import(self, point: EntryPoint) -> Entry:
        plugin = f"Plug-in {self.kind} {point.name!r} ({point.value})"
        try:
            entry: Entry = point.load()
        except Exception as error:  # another package's import can raise anything
            raise UserError(f"{plugin} cannot be imported: {type(error).__name__}: {error}.") from error
        if (fault := self._fault(entry)) is not None:
            raise UserError(f"{plugin} {fault}.")
        return entry

    def _points(self) -> dict[str, set[EntryPoint]]:
        return _by_name(self.group, tuple(sys.path))

    def _define_ours(self) -> None:
        if self._package is not None:
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{package.__name__}.{module.name}")
            self._package = None


def _origin(entry: object) -> tuple[str, str]:
    return getattr(entry, "__module__", ""), getattr(entry, "__qualname__", repr(entry))


@lru_cache(maxsize=32)
def _by_name(group: str, path: tuple[str, ...]) -> dict[str, set[EntryPoint]]:
    """The entry points of a group on this `sys.path`; the metadata of every package is read for it, so once."""
    points: dict[str, set[EntryPoint]] = {}
    for point in entry_points(group=group):
        points.setdefault(point.name, set()).add(point)
    return points
