"""Hyper-parameters of detectors, each declared once: its default, what it may be, and the values worth trying.

NumPy scalars have become plain values before they are checked; the message names detector, hyper-parameter and value.

Example:
    >>> from ood_nc.detection import FeatureDetector, create_detector
    >>> class Norm(FeatureDetector):
    ...     order = Parameter(2.0, positive, search=(1.0, 2.0))
    ...
    ...     def _score(self, queries):
    ...         return queries.features.double().norm(p=self.order, dim=1)
    >>> Norm(order=1.0), Norm().hyperparameters()
    (Norm(order=1.0), {'order': (1.0, 2.0)})
    >>> create_detector("knn", k=0)
    Traceback (most recent call last):
    ood_nc.errors.UserError: Detector 'knn': k must be a whole number of at least 1 or None, got 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, overload

from ood_nc.errors import UserError

if TYPE_CHECKING:
    from ood_nc.detection.base import BaseDetector

T = TypeVar("T")


class Allowed(NamedTuple):
    """Which values a hyper-parameter may have, as a test and in words.

    Example:
        >>> Allowed(lambda value: value in (2, 3), "2 or 3").or_none().wanted
        '2 or 3 or None'
    """

    holds: Callable[[Any], bool]
    wanted: str

    def or_none(self) -> Allowed:
        """These, and None."""
        return Allowed(lambda value: value is None or self.holds(value), f"{self.wanted} or None")

    def check(self, detector: BaseDetector, parameter: str) -> None:
        """Raise :class:`~ood_nc.errors.UserError` where the hyper-parameter of that name has another value."""
        value = getattr(detector, parameter)
        if not self.holds(value):
            raise UserError(f"Detector {detector.name!r}: {parameter} must be {self.wanted}, got {value!r}.")


class Parameter(Generic[T]):
    """A hyper-parameter, as an attribute in the body of a detector's class; there it has the name it is set by.

    Args:
        default: its value where none is given.
        allowed: the values it may have.
        search: those worth trying.
    """

    def __init__(self, default: T, allowed: Allowed, *, search: tuple[T, ...] = ()) -> None:
        self.default = default
        self.allowed = allowed
        self.search = search

    @overload
    def __get__(self, detector: None, owner: type) -> Parameter[T]: ...
    @overload
    def __get__(self, detector: object, owner: type) -> T: ...
    def __get__(self, detector: object, owner: type) -> Parameter[T] | T:
        # A value that was set stands in the detector itself and is found before this.
        return self if detector is None else self.default


def is_number(value: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")


def several(of: Callable[[Any], bool], wanted: str, *, distinct: bool = False) -> Allowed:
    """Tuples and lists, not empty, of such things, where asked for each once."""

    def holds(value: Any) -> bool:
        is_tuple = isinstance(value, (tuple, list)) and len(value) > 0 and all(map(of, value))
        return is_tuple and not (distinct and len(set(value)) < len(value))

    return Allowed(holds, wanted)


def whole(least: int) -> Allowed:
    """Whole numbers of at least ``least``."""
    return Allowed(
        lambda value: isinstance(value, int) and is_number(value) and value >= least,
        f"a whole number of at least {least}",
    )


def one_of(*choices: str) -> Allowed:
    """One of these words."""
    return Allowed(lambda value: value in choices, "one of " + ", ".join(map(repr, choices)))


positive = Allowed(lambda value: is_number(value) and value > 0, "a number above 0")
nonnegative = Allowed(lambda value: is_number(value) and value >= 0, "a number of at least 0")
share = Allowed(lambda value: is_number(value) and 0 < value < 1, "a number strictly between 0 and 1")
percent = Allowed(lambda value: is_number(value) and 0 <= value < 100, "a number of at least 0 and below 100")
flag = Allowed(lambda value: isinstance(value, bool), "True or False")
numbers = several(is_number, "a tuple of numbers")
layer_names = several(lambda name: isinstance(name, str), "a tuple of layer names, each once,", distinct=True).or_none()
channel_std = Allowed(
    lambda value: positive.holds(value) or several(positive.holds, "").holds(value),
    "a number above 0, one for each channel,",
).or_none()


def check_not_both(detector: BaseDetector, first: str, second: str) -> None:
    """Raise :class:`~ood_nc.errors.UserError` where neither of two hyper-parameters is None."""
    if None not in (getattr(detector, first), getattr(detector, second)):
        raise UserError(f"Detector {detector.name!r}: give {first} or {second}, not both.")
