"""Checks of hyper-parameters for ``_check_parameters``; the message names detector, hyper-parameter and value.

All raise :class:`~ood_nc.errors.UserError`. NumPy scalars have become plain values before.

Example:
    >>> from ood_nc.detection import create_detector
    >>> create_detector("knn", k=0)
    Traceback (most recent call last):
    ood_nc.errors.UserError: Detector 'knn': k must be a whole number of at least 1 or None, got 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ood_nc.errors import UserError

if TYPE_CHECKING:
    from ood_nc.detection.base import BaseDetector


def check_positive(detector: BaseDetector, parameter: str) -> None:
    """The hyper-parameter is a number above 0."""
    _require(detector, parameter, lambda value: _is_number(value) and value > 0, "a number above 0")


def check_nonnegative_number(detector: BaseDetector, parameter: str) -> None:
    """The hyper-parameter is a number of at least 0."""
    _require(detector, parameter, lambda value: _is_number(value) and value >= 0, "a number of at least 0")


def check_whole(detector: BaseDetector, parameter: str, least: int, *, none_allowed: bool = False) -> None:
    """The hyper-parameter is a whole number of at least ``least`` (or None)."""
    wanted = f"a whole number of at least {least}"
    _require(detector, parameter, lambda value: _is_whole(value) and value >= least, wanted, none_allowed)


def check_share(detector: BaseDetector, parameter: str, *, none_allowed: bool = False) -> None:
    """The hyper-parameter is a number strictly between 0 and 1 (or None)."""
    wanted = "a number strictly between 0 and 1"
    _require(detector, parameter, lambda value: _is_number(value) and 0 < value < 1, wanted, none_allowed)


def check_dimensions(detector: BaseDetector, least: int) -> None:
    """At most one of ``dim``, a whole number of at least ``least``, and ``explained_variance``, a share, is given."""
    check_whole(detector, "dim", least, none_allowed=True)
    check_share(detector, "explained_variance", none_allowed=True)
    if None not in (getattr(detector, "dim", None), getattr(detector, "explained_variance", None)):
        raise UserError(f"Detector {detector.name!r}: give dim or explained_variance, not both.")


def check_percent(detector: BaseDetector, parameter: str) -> None:
    """The hyper-parameter is a number of at least 0 and below 100."""
    wanted = "a number of at least 0 and below 100"
    _require(detector, parameter, lambda value: _is_number(value) and 0 <= value < 100, wanted)


def check_flag(detector: BaseDetector, parameter: str) -> None:
    """The hyper-parameter is True or False."""
    _require(detector, parameter, lambda value: isinstance(value, bool), "True or False")


def check_choice(detector: BaseDetector, parameter: str, choices: tuple[str, ...]) -> None:
    """The hyper-parameter is one of ``choices``."""
    _require(detector, parameter, lambda value: value in choices, "one of " + ", ".join(map(repr, choices)))


def check_channel_std(detector: BaseDetector, parameter: str) -> None:
    """The hyper-parameter is a number above 0, one such number a channel, or None."""

    def holds(value: Any) -> bool:
        numbers = value if isinstance(value, (tuple, list)) else (value,)
        return bool(numbers) and all(_is_number(number) and number > 0 for number in numbers)

    _require(detector, parameter, holds, "a number above 0, one for each channel,", none_allowed=True)


def check_percentiles(detector: BaseDetector, parameter: str) -> None:
    """The hyper-parameter is two percentages, strictly between 0 and 100, in ascending order."""

    def holds(value: Any) -> bool:
        return _is_tuple(value, _is_number) and len(value) == 2 and 0 < value[0] <= value[1] < 100

    _require(detector, parameter, holds, "two percentages between 0 and 100, the lower first")


def check_powers(detector: BaseDetector, parameter: str) -> None:
    """The hyper-parameter is a tuple of different whole numbers of at least 1."""

    def holds(value: Any) -> bool:
        return _is_tuple(value, lambda power: _is_whole(power) and power >= 1) and len(set(value)) == len(value)

    _require(detector, parameter, holds, "a tuple of different whole numbers of at least 1")


def check_weights(detector: BaseDetector, parameter: str) -> None:
    """The hyper-parameter is a tuple of numbers, or None."""
    _require(detector, parameter, lambda value: _is_tuple(value, _is_number), "a tuple of numbers", none_allowed=True)


def check_layers(detector: BaseDetector, parameter: str = "layers") -> None:
    """The hyper-parameter is None or names layers, each once."""

    def holds(value: Any) -> bool:
        return _is_tuple(value, lambda name: isinstance(name, str)) and len(set(value)) == len(value)

    _require(detector, parameter, holds, "a tuple of layer names, each once,", none_allowed=True)


def _require(
    detector: BaseDetector, parameter: str, holds: Callable[[Any], bool], wanted: str, none_allowed: bool = False
) -> None:
    value = getattr(detector, parameter)
    if not ((value is None and none_allowed) or holds(value)):
        wanted += " or None" * none_allowed
        raise UserError(f"Detector {detector.name!r}: {parameter} must be {wanted}, got {value!r}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_tuple(value: Any, of: Callable[[Any], bool]) -> bool:
    """Whether it is a tuple or list, not empty, of such things."""
    return isinstance(value, (tuple, list)) and len(value) > 0 and all(map(of, value))
