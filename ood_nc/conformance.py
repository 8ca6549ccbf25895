"""What the conformance checks of all rooms share. They are for the tests of packages that add something by name."""

from __future__ import annotations


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
