"""Checks of hyper-parameters; each message names detector, hyper-parameter and value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ood_nc.errors import UserError

if TYPE_CHECKING:
    from ood_nc.detection.base import Detector


def check_positive(detector: Detector, parameter: str) -> None:
    """The hyper-parameter is a number above 0."""
    value = getattr(detector, parameter)
    if not (_is_number(value) and value > 0):
        raise _error(detector, parameter, value, "a number above 0")


def check_nonnegative_number(detector: Detector, parameter: str) -> None:
    """The hyper-parameter is a number of at least 0."""
    value = getattr(detector, parameter)
    if not (_is_number(value) and value >= 0):
        raise _error(detector, parameter, value, "a number of at least 0")


def check_whole(detector: Detector, parameter: str, least: int, *, none_allowed: bool = False) -> None:
    """The hyper-parameter is a whole number of at least ``least`` (or None)."""
    value = getattr(detector, parameter)
    if value is None and none_allowed:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise _error(detector, parameter, value, f"a whole number of at least {least}" + " or None" * none_allowed)


def check_share(detector: Detector, parameter: str, *, none_allowed: bool = False) -> None:
    """The hyper-parameter is a number strictly between 0 and 1 (or None)."""
    value = getattr(detector, parameter)
    if value is None and none_allowed:
        return
    if not (_is_number(value) and 0 < value < 1):
        raise _error(detector, parameter, value, "a number strictly between 0 and 1" + " or None" * none_allowed)


def check_flag(detector: Detector, parameter: str) -> None:
    """The hyper-parameter is True or False."""
    value = getattr(detector, parameter)
    if not isinstance(value, bool):
        raise _error(detector, parameter, value, "True or False")


def check_choice(detector: Detector, parameter: str, choices: tuple[str, ...]) -> None:
    """The hyper-parameter is one of ``choices``."""
    value = getattr(detector, parameter)
    if value not in choices:
        raise _error(detector, parameter, value, "one of " + ", ".join(map(repr, choices)))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")


def _error(detector: Detector, parameter: str, value: Any, wanted: str) -> UserError:
    return UserError(f"Detector {detector.name!r}: {parameter} must be {wanted}, got {value!r}.")
