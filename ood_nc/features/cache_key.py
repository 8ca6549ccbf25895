"""A text that says what a transform does, the same in every process; for cache keys."""

from __future__ import annotations

import enum
import functools
import hashlib
import types
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def canonical_text(value: Any) -> str:
    """Describe a value by its type and everything it holds.

    What cannot be described exactly (a lambda, an object of a compiled type) is a random text, equal to nothing.
    """
    return _canonical_text(value, ())


def _canonical_text(value: Any, outer: tuple[int, ...]) -> str:
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return repr(value)
    if id(value) in outer:
        return f"<{len(outer) - outer.index(id(value))} up>"
    outer = (*outer, id(value))
    if isinstance(value, enum.Enum):
        return f"{_name(type(value))}.{value.name}"
    if isinstance(value, (torch.Tensor, np.ndarray)):
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
        return f"array {array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"
    if isinstance(value, Mapping):
        items = sorted((_canonical_text(key, outer), _canonical_text(inner, outer)) for key, inner in value.items())
        return f"{_name(type(value))}({items})"
    if isinstance(value, (list, tuple, set, frozenset)):
        parts = [_canonical_text(inner, outer) for inner in value]
        return f"{_name(type(value))}({sorted(parts) if isinstance(value, (set, frozenset)) else parts})"
    if isinstance(value, functools.partial):
        return f"partial({[_canonical_text(part, outer) for part in (value.func, value.args, value.keywords)]})"
    if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType, torch.dtype, torch.device)):
        return _unique() if "<" in repr(getattr(value, "__qualname__", "")) else _named(value)
    held = getattr(value, "__dict__", None)
    return f"{_name(type(value))}{_canonical_text(held, outer)}" if held is not None else _unique()


def _named(value: Any) -> str:
    return _name(value) if hasattr(value, "__qualname__") else repr(value)


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _unique() -> str:
    # No value of a process-local kind may ever meet its like from another process.
    return uuid.uuid4().hex
