"""What the checks of both kinds of detectors share."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ood_nc.conformance import CheckError
from ood_nc.detection.base import BaseDetector, DetectorInfo
from ood_nc.detection.errors import NonFiniteError
from ood_nc.errors import UserError

AnyDetector = TypeVar("AnyDetector", bound=BaseDetector)
Refusal = TypeVar("Refusal", bound=UserError)


def require(condition: bool, cls: type[BaseDetector], what: str) -> None:
    """Raise `CheckError` unless the condition holds."""
    if not condition:
        raise CheckError(f"Detector {getattr(cls, 'name', cls.__name__)!r}: {what}")


def refusal(cls: type[BaseDetector], what: str, wanted: type[Refusal], attempt: Callable[[], Any]) -> Refusal:
    """The error, of one line, that the attempt must end in."""
    try:
        attempt()
    except wanted as error:
        require("\n" not in str(error), cls, f"the error for {what} has more than one line.")
        return error
    raise CheckError(f"Detector {cls.name!r}: {what} must raise {wanted.__name__}.")


def close(first: Tensor, second: Tensor, tolerance: float = 1e-6) -> bool:
    """Whether two score vectors have one shape and agree, relatively or absolutely."""
    return first.shape == second.shape and bool(torch.allclose(first, second, rtol=tolerance, atol=tolerance))


def finite_or_refused(
    cls: type[BaseDetector], what: str, attempt: Callable[[], Tensor], *, may_overflow: bool = False
) -> bool:
    """Whether the attempt is refused, in one line; otherwise the scores that it gives must be finite.

    ``may_overflow``: its numbers may be too large to compute with, so that :class:`NonFiniteError` is an answer.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            scores = attempt()
        except UserError as error:
            require("\n" not in str(error), cls, f"the error for {what} has more than one line.")
            require(may_overflow or not isinstance(error, NonFiniteError), cls, f"{what}: {error}")
            return True
    require(bool(torch.isfinite(scores).all()), cls, f"{what}: scores are not finite.")
    return False


def read_only(array: Any) -> Any:
    """A copy of a NumPy array that cannot be written to."""
    array = array.copy()
    array.flags.writeable = False
    return array


def saved_and_loaded(detector: AnyDetector) -> AnyDetector:
    """A new detector with the state of this one, after a way through a file without pickle."""
    file = io.BytesIO()
    torch.save(detector.state_dict(), file)
    file.seek(0)
    return type(detector)().load_state_dict(torch.load(file, weights_only=True))


def _as_numpy(value: Any) -> Any:
    """Numbers and flags, also those in a tuple, as NumPy scalars."""
    if isinstance(value, tuple):
        return tuple(map(_as_numpy, value))
    return np.asarray(value)[()] if isinstance(value, (bool, int, float)) else value


def _check_declaration(cls: type[BaseDetector]) -> None:
    """Info, requirements and docstring are there."""
    require(isinstance(cls.info, DetectorInfo), cls, "info must be a DetectorInfo.")
    empty = [field.name for field in fields(cls.info) if not getattr(cls.info, field.name)]
    require(not empty, cls, f"info leaves {', '.join(empty)} empty.")
    require(isinstance(cls.requires, frozenset) and cls.requires <= cls.inputs, cls, f"requires {cls.requires!r}.")
    require(bool(cls.__doc__), cls, "has no docstring.")


def _check_parameters(cls: type[BaseDetector]) -> None:
    """Hyper-parameters can be read, set and searched by name."""
    detector = cls()
    defaults = detector.get_params()
    require(cls(**defaults).get_params() == defaults, cls, "get_params does not give back what __init__ got.")
    for name, values in detector.hyperparameters().items():
        require(name in defaults, cls, f"search space names {name!r}, which is no hyper-parameter.")
        for value in values:
            cls().set_params(**{name: value})
    numpy_values = {name: _as_numpy(value) for name, value in defaults.items()}
    for made in (cls().set_params(**numpy_values), cls(**numpy_values)):
        given = made.state_dict()["parameters"]
        same = given == defaults and all(type(given[name]) is type(value) for name, value in defaults.items())
        require(same, cls, "the state of a detector made with NumPy scalars does not hold plain values.")
    refusal(cls, "set_params with an unknown name", UserError, lambda: detector.set_params(no_such_parameter=1))
