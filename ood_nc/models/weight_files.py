"""State dicts out of files that anybody may have written: nothing in them is run."""

from __future__ import annotations

import argparse
import pathlib
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from ood_nc.errors import UserError
from ood_nc.sealed import DamagedFileError, is_sealed, read_sealed

_AVERAGED = ("state_dict_ema", "model_ema")
_ENTRIES = (*_AVERAGED, "state_dict", "model", "model_state_dict")
_SHOWN = 3


@dataclass(frozen=True)
class WeightFile:
    """The weights of a file.

    Attributes:
        path: the file.
        state: tensors by the file's own names.
        entry: where in the file they are: the entry's name (averaged weights: ``state_dict_ema``), or ``the file
            itself``.
        settings: what timm's training script was called with, where the file tells.
    """

    path: Path
    state: dict[str, torch.Tensor]
    entry: str
    settings: dict[str, Any] = field(default_factory=dict)


def read_weights(path: str | Path, *, use_ema: bool = True) -> WeightFile:
    """Read the state dict of a file: safetensors, or a torch file that holds tensors and plain values alone.

    It is the whole file, or one of timm's entries `state_dict_ema`, `model_ema`, `state_dict`, `model`, or the one
    entry that has tensors. NumPy numbers, paths and timm's arguments beside it are data.

    Args:
        path: the file.
        use_ema: prefer averaged weights, as timm does.

    Raises:
        UserError: no such file, damaged, holding code or objects, or no weights.
    """
    path = Path(path)
    content = _read(path)
    names = [name for name in _ENTRIES if use_ema or name not in _AVERAGED]
    entry, state = "the file itself", _tensors(content)
    nested = {name: _tensors(inner) for name, inner in content.items() if isinstance(inner, Mapping)}
    nested = {name: tensors for name, tensors in nested.items() if tensors and (use_ema or name not in _AVERAGED)}
    named = next((name for name in names if name in nested), None)
    if named is None and not state and nested:
        named = max(nested, key=lambda name: len(nested[name]))
    if named is not None:
        entry, state = str(named), nested[named]
    if not state:
        raise UserError(f"{path} holds no weights: its entries are {some(map(str, content))}.")
    arguments = content.get("args")
    settings = vars(arguments) if isinstance(arguments, argparse.Namespace) else arguments
    return WeightFile(path, state, entry, dict(settings) if isinstance(settings, Mapping) else {})


def some(keys: Iterable[str]) -> str:
    """The first few, and how many more there are."""
    shown = list(keys)
    more = f", and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more


def _tensors(content: Mapping[Any, Any]) -> dict[str, torch.Tensor]:
    return {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor) and k != "n_averaged"}


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise UserError(f"No checkpoint {path}: give the path of a file of weights.")
    try:
        if path.suffix == ".safetensors":
            return read_sealed(path)[1] if is_sealed(path) else load_file(path)
        with torch.serialization.safe_globals(_data()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(_refusal(path, str(error))) from None
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.") from None
    except DamagedFileError:
        raise
    except Exception as error:  # each reader has its own exceptions for damaged files
        raise UserError(f"{path} is damaged, or no checkpoint ({type(error).__name__}).") from None
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a state dict.")
    return content


def _refusal(path: Path, reason: str) -> str:
    wanted = re.search(r"(?:GLOBAL|global|Unsupported class) (\S+)", reason)
    if wanted is None:
        return f"{path} is damaged, or no checkpoint."
    return f"{path} is refused: it holds code or objects ({wanted[1]}), not weights alone. Save the state dict."


def _data() -> list[Any]:
    """What stands for values only: arguments, paths, NumPy's numbers and arrays, under each name they had or have."""
    core = getattr(np, "_core", None) or np.core
    arrays = [core.multiarray.scalar, core.multiarray._reconstruct]
    places = ("numpy._core.multiarray", "numpy.core.multiarray")
    paths = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
    return [
        argparse.Namespace,
        np.dtype,
        np.ndarray,
        *{type(np.dtype(code)) for code in "?bBhHiIlLqQefdgFDSU"},
        *((function, f"{place}.{function.__name__}") for place in places for function in arrays),
        *((pathlib.PurePath, f"{place}.{name}") for place in ("pathlib", "pathlib._local") for name in paths),
    ]
