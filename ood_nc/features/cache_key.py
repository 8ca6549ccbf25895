"""The key of a feature bank: a hash over everything that it depends on, the same in every process."""

from __future__ import annotations

import enum
import functools
import hashlib
import json
import types
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from ood_nc.errors import UserError
from ood_nc.models import weights_hash

_FORMAT = 3
_OF_TORCH = frozenset(vars(nn.Module()))
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, functools.partial)
_CHOICES = (bool, int, float, complex, str, torch.dtype, *_FUNCTIONS)
_LIBRARIES = frozenset({"builtins", "ood_nc", "timm", "torch", "torchvision"})


def bank_key(
    model: Any,
    dataset: Any,
    *,
    weights: str | None = None,
    amp: bool = False,
    amp_dtype: torch.dtype = torch.float16,
    dtype: torch.dtype = torch.float32,
) -> str:
    """A sha256 over everything a bank depends on.

    A transform that cannot be described exactly (a lambda, say) gives a key of its own each time: such a bank is
    never reused, rather than reused wrongly.
    """
    parts = {
        "format": _FORMAT,
        "weights": weights_hash(model) if weights is None else weights,
        "network": _settings(model),
        "taps": [[name, info.pooling, info.dim] for name, info in model.tap_info.items()],
        "transform": canonical_text(dataset.transform),
        "pixels": canonical_text([getattr(dataset, name, None) for name in ("pixels", "channels")]),
        "data": dataset.fingerprint(),
        "dtype": [str(amp_dtype) if amp else "float32", str(dtype)],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _settings(model: Any) -> dict[str, Any] | list[str] | None:
    """What makes another network of the same weights: activations, pooling, strides; of code of one's own all of it."""
    try:
        spec = model.spec()
    except UserError:
        return [_layer(name, layer) for name, layer in model.named_modules() if name]
    except AttributeError:
        return None
    known = {"taps", "pooling", "auxiliary", "preprocessing", "class_names"}
    return {name: value for name, value in spec.items() if name not in known}


def _layer(name: str, layer: nn.Module) -> str:
    held = {key: value for key, value in vars(layer).items() if key not in _OF_TORCH and _is_setting(value)}
    return f"{name} {_name(type(layer))}{canonical_text(held)} {_code_of(type(layer))}"


def _is_setting(value: Any) -> bool:
    """Whether a layer's attribute can be a choice: not what a pass left (tensors), nor who holds it (a trainer)."""
    if isinstance(value, (list, tuple, dict)):
        return all(map(_is_setting, value.values() if isinstance(value, dict) else value))
    return value is None or isinstance(value, _CHOICES)


def _code_of(cls: type) -> str:
    """A hash of the functions that a class has, but for those of libraries that are known by name."""
    own = [base for base in cls.__mro__ if not _is_of_library(base)]
    functions = [value for base in own for value in vars(base).values() if isinstance(value, types.FunctionType)]
    return hashlib.sha256("".join(_code(function.__code__) for function in functions).encode()).hexdigest()


def _is_of_library(value: Any) -> bool:
    return str(value.__module__).partition(".")[0] in _LIBRARIES


def _code(code: types.CodeType) -> str:
    parts = [_code(part) if isinstance(part, types.CodeType) else canonical_text(part) for part in code.co_consts]
    return f"{code.co_name} {code.co_code.hex()} {code.co_names} {parts}"


def canonical_text(value: Any, outer: tuple[int, ...] = ()) -> str:
    """Describe a value by its type and everything it holds; ``outer`` are the ids of the values that it is in.

    What cannot be described exactly (a lambda, an object of a compiled type) is a random text, equal to nothing.
    """
    if value is None or value is ... or isinstance(value, (bool, int, float, complex, str, bytes)):
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
        items = sorted((canonical_text(key, outer), canonical_text(inner, outer)) for key, inner in value.items())
        return f"{_name(type(value))}({items})"
    if isinstance(value, (list, tuple, set, frozenset)):
        parts = [canonical_text(inner, outer) for inner in value]
        return f"{_name(type(value))}({sorted(parts) if isinstance(value, (set, frozenset)) else parts})"
    if isinstance(value, functools.partial):
        return f"partial({[canonical_text(part, outer) for part in (value.func, value.args, value.keywords)]})"
    if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType, torch.dtype, torch.device)):
        return _unique() if "<" in repr(getattr(value, "__qualname__", "")) else _named(value)
    held = getattr(value, "__dict__", None)
    if held is None:
        return _unique()
    code = "" if _is_of_library(type(value)) else f" {_code_of(type(value))}"
    return f"{_name(type(value))}{canonical_text(held, outer)}{code}"


def _named(value: Any) -> str:
    if isinstance(value, types.FunctionType) and not _is_of_library(value):
        return f"{_name(value)} {_code(value.__code__)} {canonical_text([value.__defaults__, value.__kwdefaults__])}"
    return _name(value) if hasattr(value, "__qualname__") else repr(value)


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _unique() -> str:
    # No value of a process-local kind may ever meet its like from another process.
    return uuid.uuid4().hex
