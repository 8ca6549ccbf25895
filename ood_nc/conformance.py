"""What the conformance checks of all rooms share. They are for the tests of packages that add something by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import TypeVar

from ood_nc.errors import UserError
from ood_nc.registry import Registry

Entry = TypeVar("Entry")


class CheckError(AssertionError):
    """Something breaks the protocol of its kind; the message names it and what was seen."""


def require(condition: bool, what: str, seen: str) -> None:
    """Raise `CheckError` unless the condition holds.

    Args:
        condition: what must be true.
        what: the kind and name of what is checked ("Loss 'spread'").
        seen: what it does instead, as the rest of the sentence.

    Example:
        >>> require(False, "Loss 'spread'", "gives NaN for rows that are all alike")
        Traceback (most recent call last):
        ood_nc.conformance.CheckError: Loss 'spread' gives NaN for rows that are all alike.
    """
    if not condition:
        raise CheckError(f"{what} {seen}.")


def run_checks(registry: Registry[Entry], entry: Entry | str, checks: Iterable[Callable[[Entry, str], None]]) -> None:
    """Run the checks of a kind on something, or on the registered one of that name.

    Each check is given it, and the kind and name that a `CheckError` begins with.

    Raises:
        UserError: nothing of that name.
    """
    name = entry if isinstance(entry, str) else getattr(entry, "name", getattr(entry, "__name__", repr(entry)))
    found = registry[entry] if isinstance(entry, str) else entry
    what = f"{registry.kind.capitalize()} {name!r}"
    require(bool(inspect.getdoc(found)), what, "has no docstring")
    for check in checks:
        check(found, what)


def require_refusal(what: str, mistake: str, attempt: Callable[[], object]) -> None:
    """Raise `CheckError` unless the attempt ends in a `UserError` of one line."""
    try:
        attempt()
    except UserError as error:
        require("\n" not in str(error), what, f"has an error of several lines for {mistake}")
    except Exception as error:
        raise CheckError(f"{what} raises {type(error).__name__} for {mistake}, not a UserError.") from error
    else:
        require(False, what, f"takes {mistake}")
