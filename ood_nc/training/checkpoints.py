"""Checkpoints: weights as safetensors, the training state of the last one beside it.

The weights hold what rebuilds the model (its specification, class names, preprocessing) as JSON in their metadata.

A checkpoint to go on from is two files, and a crash may fall between them. So each pair carries the same token, and
they are written in this order: the weights as ``last.next.safetensors``; the state as ``last.state.pt``, which from
that moment names the new weights; then the weights take the name ``last.safetensors``. Whenever the process dies, the
state's token is found in one of the two weight files.
"""

from __future__ import annotations

import io
import json
import pickle
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from ood_nc.errors import UserError
from ood_nc.files import atomic_path
from ood_nc.models import ControlledModel

LAST, NEXT, BEST, STATE = "last.safetensors", "last.next.safetensors", "best.safetensors", "last.state.pt"


def pack_weights(model: ControlledModel, facts: Mapping[str, Any]) -> tuple[bytes, str]:
    """The model as the content of a safetensors file.

    Args:
        model: the model.
        facts: what else to keep with it, e.g. epoch and validation accuracy.

    Returns:
        The content, and the token that identifies it.
    """
    token = secrets.token_hex(16)
    about = {"spec": model.spec(), "facts": dict(facts)}
    # Copies, because tensors that share memory (tied weights) are refused.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    return safetensors.torch.save(tensors, {"format": "pt", "token": token, "ood_nc": json.dumps(about)}), token


def write_weights(path: Path, content: bytes) -> None:
    """Write packed weights to ``path``, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_last(folder: Path, content: bytes, token: str, state: Mapping[str, Any]) -> None:
    """Write the checkpoint to go on from (the order of the module's text).

    Args:
        folder: the folder of checkpoints.
        content: packed weights.
        token: their token.
        state: tensors, numbers, strings and containers of them.
    """
    write_weights(folder / NEXT, content)
    buffer = io.BytesIO()
    torch.save({**state, "token": token}, buffer)
    with atomic_path(folder / STATE) as temporary:
        temporary.write_bytes(buffer.getvalue())
    (folder / NEXT).replace(folder / LAST)


def settle(folder: Path) -> None:
    """Give the weights of a half-named checkpoint their name, before anything is written over them."""
    last = read_last(folder)
    if last is not None and last[0].name == NEXT:
        last[0].replace(folder / LAST)


def read_last(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The weights file and the training state to go on from; None where no epoch was finished.

    Raises:
        UserError: the state cannot be read, or the weights that belong to it are gone.
    """
    path = folder / STATE
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        token = state["token"]
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise UserError(f"Cannot read the training state {path}: {_first_line(error)}.") from None
    for name in (LAST, NEXT):
        if (folder / name).exists() and read_metadata(folder / name).get("token") == token:
            return folder / name, state
    raise UserError(f"The weights that belong to {path} are gone: {folder / LAST} is from another run.")


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file.

    Raises:
        UserError: not there, or not a whole safetensors file.
    """
    if not path.is_file():
        raise UserError(f"There is no checkpoint {path}.")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} is not a whole safetensors file: {_first_line(error)}.") from None


def describe(path: Path) -> dict[str, Any]:
    """What a checkpoint of ours says about its model: ``spec`` (with class names and preprocessing) and ``facts``.

    Raises:
        UserError: the file is not there, or was not written by this project.
    """
    text = read_metadata(path).get("ood_nc")
    if text is None:
        raise UserError(f"{path} does not say which model it holds: it is no checkpoint of a run.")
    return json.loads(text)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
