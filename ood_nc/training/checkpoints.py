"""Checkpoints: weights as safetensors, the training state of the last one beside it, each under a digest.

The header of the weights holds what rebuilds the model: its specification, class names, preprocessing.

A checkpoint to go on from is two files, and a crash may fall between them. So each pair carries the same token, and
they are written in this order: the weights as ``last.next.safetensors``; the state as ``last.state.pt``, which from
that moment names the new weights; then the weights take the name ``last.safetensors``. Whenever the process dies, the
state's token is found in one of the two weight files.
"""

from __future__ import annotations

import io
import pickle
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ood_nc.errors import UserError
from ood_nc.models import ControlledModel
from ood_nc.sealed import DamagedFileError, read_sealed, read_sealed_bytes, write_sealed, write_sealed_bytes

LAST, NEXT, BEST, STATE = "last.safetensors", "last.next.safetensors", "best.safetensors", "last.state.pt"


def describe(model: ControlledModel, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The header of a model's weights.

    Args:
        model: the model.
        facts: what else to keep with it, e.g. epoch and validation accuracy.

    Returns:
        ``spec``, ``facts``, and a ``token`` that no other header has.
    """
    return {"token": secrets.token_hex(16), "spec": model.spec(), "facts": dict(facts)}


def write_weights(path: Path, weights: Mapping[str, torch.Tensor], header: Mapping[str, Any]) -> None:
    """Write a model's state dict to ``path``, whole or not at all."""
    write_sealed(path, weights, header)


def write_last(
    folder: Path, weights: Mapping[str, torch.Tensor], header: Mapping[str, Any], state: Mapping[str, Any]
) -> None:
    """Write the checkpoint to go on from (the order of the module's text).

    Args:
        folder: the folder of checkpoints.
        weights: the model's state dict.
        header: of the weights, from `describe`.
        state: tensors, numbers, strings and containers of them.
    """
    write_weights(folder / NEXT, weights, header)
    buffer = io.BytesIO()
    torch.save({**state, "token": header["token"]}, buffer)
    write_sealed_bytes(folder / STATE, buffer.getvalue())
    (folder / NEXT).replace(folder / LAST)


def settle(folder: Path) -> None:
    """Give the weights of a half-named checkpoint their name, before anything is written over them."""
    last = read_last(folder)
    if last is not None and last[0].name == NEXT:
        last[0].replace(folder / LAST)


def read_last(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The weights file and the training state to go on from; None where no epoch was finished.

    Raises:
        UserError: one of them is damaged, or there are weights and no state, or a state whose weights are gone. Nothing
            older takes their place unasked: no other training state is kept.
    """
    path = folder / STATE
    if not path.exists():
        # The best of the first epoch alone may be there: the process died before its state was written.
        if (folder / LAST).exists() or ((folder / BEST).exists() and read_header(folder / BEST)["facts"]["epoch"] > 1):
            raise UserError(
                f"{path} is gone, without which the run would begin anew over its weights; {_advice(folder)}."
            )
        return None
    try:
        state = torch.load(io.BytesIO(read_sealed_bytes(path)), map_location="cpu", weights_only=True)
        token = state["token"]
        for name in (NEXT, LAST):
            if (folder / name).exists() and read_header(folder / name)["token"] == token:
                return folder / name, state
    except DamagedFileError as error:
        raise UserError(f"{error} The run cannot go on from it; {_advice(folder)}.") from None
    except (RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError):
        raise UserError(f"{path} is no training state of a run; {_advice(folder)}.") from None
    raise UserError(f"The weights that belong to {path} are gone: {folder / LAST} is from another run.")


def _advice(folder: Path) -> str:
    kept = f", from its weights with --initial-checkpoint {folder / BEST}" if (folder / BEST).exists() else ""
    return f"start one under another --experiment{kept}"


def read_header(path: Path) -> dict[str, Any]:
    """What a checkpoint says about its model: ``spec`` (with class names and preprocessing), ``facts``, ``token``.

    Raises:
        UserError: the file is not there, is damaged, or was not written by a run.
    """
    return _checked(read_sealed(path, with_tensors=False)[0], path)


def load_model(path: Path) -> tuple[ControlledModel, dict[str, Any]]:
    """The model in a checkpoint, rebuilt from what the file says about it, and its ``facts``.

    Raises:
        UserError: as `read_header`, or the weights are not those of the model that the file names.
    """
    header, tensors = read_sealed(path)
    model = ControlledModel.from_spec(_checked(header, path)["spec"])
    fill(model, tensors, path)
    return model, header["facts"]


def fill(model: ControlledModel, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Load the weights of a checkpoint into its model, all of them or none.

    Raises:
        UserError: keys are missing, unexpected or of another shape.
    """
    own = model.state_dict()
    wrong = [key for key in own.keys() | tensors.keys() if key not in own or key not in tensors]
    wrong += [key for key in own.keys() & tensors.keys() if own[key].shape != tensors[key].shape]
    if wrong:
        raise UserError(f"{path} does not fit its model: {len(wrong)} weights differ, among them {min(wrong)!r}.")
    model.load_state_dict(tensors)


def _checked(header: dict[str, Any], path: Path) -> dict[str, Any]:
    if not {"token", "spec", "facts"} <= header.keys():
        raise UserError(f"{path} does not say which model it holds: it is no checkpoint of a run.")
    return header
