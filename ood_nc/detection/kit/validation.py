"""Checks of hyper-parameters; each message names detector, hyper-parameter and value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ood_nc.errors import UserError

if TYPE_CHECKING:
    from ood_nc.detection.base import BaseDetector


def check_positive(detector: BaseDetector, parameter: str) -> None:
    """The hyper-parameter is a number above 0."""
    value = getattr(detector, parameter)
    if not (_is_number(value) and value > 0):
        raise _error(detector, parameter, value, "a number above 0")


def check_nonnegative_number(detector: BaseDetector, parameter: str) -> None:
    """The hyper-parameter is a number of at least 0."""
    value = getattr(detector, parameter)
    if not (_is_number(value) and value >= 0):
        raise _error(detector, parameter, value, "a number of at least 0")


def check_whole(detector: BaseDetector, parameter: str, least: int, *, none_allowed: bool = False) -> None:
    """The hyper-parameter is a whole number of at least ``least`` (or None)."""
    value = getattr(detector, parameter)
    if value is None and none_allowed:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise _error(detector, parameter, value, f"a whole number of at least {least}" + " or None" * none_allowed)


def check_share(detector: BaseDetector, parameter: str, *, none_allowed: bool = False) -> None:
    """The hyper-parameter is a number strictly between 0 and 1 (or None)."""
    value = getattr(detector, parameter)
    if value is None and none_allowed:
        return
    if not (_is_number(value) and 0 < value < 1):
        raise _error(detector, parameter, value, "a number strictly between 0 and 1" + " or None" * none_allowed)


def check_percent(detector: BaseDetector, parameter: str) -> None:
    """The hyper-parameter is a number of at least 0 and below 100."""
    value = getattr(detector, parameter)
    if not (_is_number(value) and 0 <= value < 100):
        raise _error(detector, parameter, value, "a number of at least 0 and below 100")


def check_flag(detector: BaseDetector, parameter: str) -> None:
    """The hyper-parameter is True or False."""
    value = getattr(detector, parameter)
    if not isinstance(value, bool):
        raise _error(detector, parameter, value, "True or False")


def check_choice(detector: BaseDetector, parameter: str, choices: tuple[str, ...]) -> None:
    """The hyper-parameter is one of ``choices``."""
    value = getattr(detector, parameter)
    if value not in choices:
        raise _error(detector, parameter, value, "one of " + ", ".join(map(repr, choices)))


def check_channel_std(detector: BaseDetector, parameter: str) -> None:
    """The hyper-parameter is a number above 0, one such number a channel, or None."""
    value = getattr(detector, parameter)
    if value is None:
        return
    numbers = value if isinstance(value, (tuple, list)) else (value,)
    if not numbers or not all(_is_number(number) and number > 0 for number in numbers):
        raise _error(detector, parameter, value, "a number above 0, one for each channel, or None")


def check_percentiles(detector: BaseDetector, parameter: str) -> None:
    """The hyper-parameter is two percentages, strictly between 0 and 100, in ascending order."""
    value = getattr(detector, parameter)
    pair = isinstance(value, (tuple, list)) and len(value) == 2 and all(map(_is_number, value))
    if not (pair and 0 < value[0] <= value[1] < 100):
        raise _error(detector, parameter, value, "two percentages between 0 and 100, the lower first")


def check_powers(detector: BaseDetector, parameter: str) -> None:
    """The hyper-parameter is a tuple of different whole numbers of at least 1."""
    value = getattr(detector, parameter)
    whole = isinstance(value, (tuple, list)) and all(type(power) is int and power >= 1 for power in value)
    if not whole or not value or len(set(value)) < len(value):
        raise _error(detector, parameter, value, "a tuple of different whole numbers of at least 1")


def check_weights(detector: BaseDetector, parameter: str) -> None:
    """The hyper-parameter is a tuple of numbers, or None."""
    value = getattr(detector, parameter)
    if value is not None and not (isinstance(value, (tuple, list)) and value and all(map(_is_number, value))):
        raise _error(detector, parameter, value, "a tuple of numbers, or None")


def check_layers(detector: BaseDetector, parameter: str = "layers") -> None:
    """The hyper-parameter is None or names layers, each once."""
    value = getattr(detector, parameter)
    if value is None:
        return
    named = isinstance(value, (tuple, list)) and all(isinstance(name, str) for name in value)
    if not named or not value or len(set(value)) < len(value):
        raise _error(detector, parameter, value, "a tuple of layer names, each once, or None")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")


def _error(detector: BaseDetector, parameter: str, value: Any, wanted: str) -> UserError:
    return UserError(f"Detector {detector.name!r}: {parameter} must be {wanted}, got {value!r}.")
