"""What the checks of both kinds of detectors share."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from ood_nc.conformance import CheckError
from ood_nc.detection.base import BaseDetector
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
