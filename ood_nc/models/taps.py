"""Taps: which modules of a backbone are read, how they are named, and how their output or input is recorded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ood_nc.errors import UserError, nearest
from ood_nc.models.pooling import Layout, Pooling, resolve
from ood_nc.models.probing import INPUT, Trace, layout_of, single_tensor

BEHIND = ("encoder", "adapter", "projector")
"""What is read behind the layers of a backbone, in depth order."""

WORDS = ("stages", "blocks", *BEHIND)


@dataclass(frozen=True)
class TapInfo:
    """One tap.

    Attributes:
        name: the module's name in the backbone (of its input with ``@input`` behind it), or ``encoder``, ``adapter``,
            ``projector``.
        depth: its place among the taps, in the order in which a forward pass reaches them, from 0.
        pooling: how its output becomes a vector (``auto`` resolved).
        dim: width of that vector.
        nonnegative: whether it is nonnegative by construction (after a ReLU); None when not known.

    Example:
        >>> TapInfo(name="encoder", depth=4, pooling="avg", dim=512, nonnegative=True).dim
        512
    """

    name: str
    depth: int
    pooling: str
    dim: int
    nonnegative: bool | None


@dataclass(frozen=True)
class ModuleTap:
    """A tap on a module of the backbone, resolved: its pooling and what is known of what it reads."""

    pooling: Pooling
    dim: int
    nonnegative: bool | None


class Recorder:
    """Collects the pooled outputs and inputs of the tapped modules, for each forward pass its own.

    Hooks are set once, and do nothing unless the pass that runs them records. What it records into belongs to the
    context (the thread) that it runs in.

    Args:
        taps: the tapped modules by name, in depth order.
        backbone: what they are in.
    """

    def __init__(self, taps: Mapping[str, ModuleTap], backbone: nn.Module) -> None:
        self.traced: dict[str, torch.Tensor] | None = None
        self.names = tuple(taps)
        for name, tap in taps.items():
            module, hook = backbone.get_submodule(name.removesuffix(INPUT)), _Hook(self, name, tap.pooling)
            if name.endswith(INPUT):
                module.register_forward_pre_hook(hook)
            else:
                module.register_forward_hook(hook)

    @staticmethod
    def is_alone(model: nn.Module) -> bool:
        """Whether the model has no hooks of someone else's, who would expect one pass after the other, and is not
        compiled, which runs in one thread."""
        return all(
            module._compiled_call_impl is None
            and all(isinstance(one, _Hook) for one in module._forward_hooks.values())
            and all(isinstance(one, _Hook) for one in module._forward_pre_hooks.values())
            for module in model.modules()
        )

    def recording(self) -> _Recording:
        """Record inside a ``with`` block, into the dict that it gives."""
        return _Recording(self)

    def values(self) -> dict[str, torch.Tensor] | None:
        """What the pass that runs now records into, None where it does not record."""
        if torch.compiler.is_compiling():
            return self.traced
        return _recording.get().get(id(self), self.traced)


class _Recording:
    """A class, not a generator: the compiler of PyTorch 2.6 cannot look into those."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def __enter__(self) -> dict[str, torch.Tensor]:
        values: dict[str, torch.Tensor] = {}
        if torch.compiler.is_compiling():  # the compiler knows attributes, not context variables
            self.recorder.traced = values
        else:
            self.token = _recording.set({**_recording.get(), id(self.recorder): values})
        return values

    def __exit__(self, kind: object, *error: object) -> None:
        if torch.compiler.is_compiling():
            self.recorder.traced = None
            return
        values = _recording.get()[id(self.recorder)]
        _recording.reset(self.token)
        unseen = [name for name in self.recorder.names if name not in values]
        if unseen and kind is None:
            raise UserError(
                f"Tap {unseen[0]!r} was not reached: its layer is compiled by itself, where no hook acts, or this pass "
                "leaves it out. Compile the whole model, or tap another layer."
            )


_recording: ContextVar[dict[int, dict[str, torch.Tensor]]] = ContextVar("recording", default={})  # noqa: B039  never changed


class _Hook:
    """A class, not a closure: a deep copy of the model must record into its own recorder."""

    def __init__(self, recorder: Recorder, name: str, pooling: Pooling) -> None:
        self.recorder, self.name, self.pooling = recorder, name, pooling

    def __call__(self, module: nn.Module, args: Any, *output: Any) -> None:
        values = self.recorder.values()
        # Gradient checkpointing runs a module again in the backward pass, which does not record, and there it must do
        # all that it did before: so wherever there are gradients, the output is pooled.
        if values is not None or torch.is_grad_enabled():
            read = (output or args)[0]
            tensor = read if isinstance(read, torch.Tensor) else single_tensor(read)
            assert tensor is not None, self.name
            pooled = self.pooling(tensor)
            if values is not None:
                values[self.name] = pooled


def resolve_taps(
    patterns: Iterable[str], pooling: str | Mapping[str, str], backbone: nn.Module, seen: Trace, model_name: str
) -> dict[str, ModuleTap]:
    """Return the tapped modules of the backbone in depth order.

    A pattern is a module's name, a glob over names in which ``*`` and ``?`` do not cross a dot (``layer*`` stages,
    ``layer*.*`` blocks, ``layer*.*.conv?`` single layers), ``stages`` (timm's `feature_info`, else the parts that
    it is made of) or ``blocks``; with ``@input`` behind it, what those modules are given. A glob skips what cannot be
    tapped; a name that cannot is an error. Of a module that runs more than once the last time counts.

    Raises:
        UserError: a name or glob that matches nothing, or nothing that can be tapped; a pooling that does not fit.
    """
    layouts = {INPUT: tappable(backbone, seen.inputs), "": tappable(backbone, seen)}
    chosen: dict[str, str] = {}
    for pattern in patterns:
        if pattern not in BEHIND:
            module, side, of = _side(pattern, seen)
            found = _match(module, side, layouts[side], backbone, of, model_name)
            chosen.update((name + side, pattern) for name in found)
    taps: dict[str, ModuleTap] = {}
    sides = {name: _side(name, seen) for name in chosen}
    if not isinstance(pooling, str):
        vectors = {name for name, (module, side, _) in sides.items() if layouts[side][module].kind == "vector"}
        _check_pooling_keys(pooling, chosen, vectors)
    for name in sorted(chosen, key=seen.steps.__getitem__):
        module, side, of = sides[name]
        read = of.outputs[module]
        assert read is not None
        pool = resolve(_pooling_for(name, chosen[name], pooling), layouts[side][module], tuple(read.shape), name)
        taps[name] = ModuleTap(pool, int(pool(read).shape[1]), of.nonnegative[module])
    return taps


def _side(tap: str, seen: Trace) -> tuple[str, str, Trace]:
    """The module of a tap or pattern, `INPUT` or nothing, and what was seen there."""
    return (tap.removesuffix(INPUT), INPUT, seen.inputs) if tap.endswith(INPUT) else (tap, "", seen)


def tappable(backbone: nn.Module, seen: Trace) -> dict[str, Layout]:
    """Return the modules whose output can be pooled to one vector a sample, in depth order, with their layouts.

    With ``seen.inputs`` for ``seen``, those whose input can.
    """
    modules = dict(backbone.named_modules())
    found = {name: layout_of(name, modules[name], seen, backbone) for name in seen.outputs if name}
    return {name: layout for name, layout in found.items() if layout is not None}


def stage_names(backbone: nn.Module, names: Iterable[str]) -> list[str]:
    """Return the stages among the tappable ``names``: timm's `feature_info`, else its coarse parameter groups, else
    the top-level modules that have weights."""
    known = list(names)
    info = getattr(backbone, "feature_info", None) or []
    listed = {entry.get("module") for entry in getattr(info, "info", info) if isinstance(entry, dict)}
    with_weights = {n for n, m in backbone.named_children() if next(m.parameters(), None) is not None}
    return (
        [name for name in known if name in listed]
        or _grouped(backbone, known, coarse=True)
        or [name for name in known if name in with_weights]
    )


def block_names(backbone: nn.Module, names: Iterable[str]) -> list[str]:
    """Return the blocks among ``names``: timm's fine parameter groups (for a plain stack of layers its convolutions),
    else the outermost numbered modules that are no plain sequence."""
    known = list(names)
    modules = dict(backbone.named_modules())
    grouped = _grouped(backbone, known, coarse=False)
    if grouped:
        composed = [n for n in grouped if next(modules[n].children(), None) is not None]
        return composed or [n for n in grouped if isinstance(modules[n], (nn.modules.conv._ConvNd, nn.Linear))]
    blocks = {
        name
        for name in modules
        if name.rpartition(".")[2].isdigit()
        and type(modules[name]) not in (nn.Sequential, nn.ModuleList)
        and next(modules[name].children(), None) is not None
    }
    return [n for n in known if n in blocks and not any(n.startswith(f"{other}.") for other in blocks)]


def _grouped(backbone: nn.Module, names: list[str], *, coarse: bool) -> list[str]:
    try:
        matcher: Any = backbone.group_matcher
        groups = matcher(coarse=coarse)["blocks"]
    except (AttributeError, KeyError, TypeError, NotImplementedError):
        return []
    patterns = [groups] if isinstance(groups, str) else [p for p, place in groups if place is None]
    numbered = [pattern for pattern in patterns if r"(\d+)" in pattern]
    return [name for name in names if any(re.fullmatch(pattern.lstrip("^"), name) for pattern in numbered)]


def _match(
    pattern: str, side: str, layouts: Mapping[str, Layout], backbone: nn.Module, seen: Trace, model_name: str
) -> list[str]:
    if pattern == "stages":
        return stage_names(backbone, layouts)
    if pattern == "blocks":
        return block_names(backbone, layouts)
    modules = dict(backbone.named_modules())
    glob = _glob(pattern)
    matched = [name for name in modules if name and glob.fullmatch(name)]
    found = [name for name in matched if name in layouts]
    how = f"`ood-nc list taps {model_name}` shows what there is."
    if not matched:
        hint = nearest(pattern, [*layouts, *(WORDS[:2] if side else WORDS)])
        raise UserError(f"No module of {model_name} is called {pattern!r}.{hint} {how}")
    if not found:
        reason = _reason(matched[0], "input" if side else "output", modules, seen)
        raise UserError(f"Tap {pattern + side!r} of {model_name} cannot be read: {reason}. {how}")
    return found


def _reason(name: str, what: str, modules: Mapping[str, nn.Module], seen: Trace) -> str:
    if name not in seen.outputs:
        inside = next((n for n in seen.outputs if n.startswith(f"{name}.")), None)
        return f"{name} itself never runs" + (f" (its parts do: {name}.*)" if inside else "")
    read = seen.outputs[name]
    if read is None:
        return f"the {what} of {name} ({type(modules[name]).__name__}) is not one tensor"
    return f"the {what} of {name}, {tuple(read.shape)} for {seen.image_size} pixels, is not a row a sample"


def _glob(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*|\?|\[[^\]]*\])", pattern)
    translated = {"*": "[^.@]*", "?": "[^.@]"}
    kept = [translated.get(part, part if part.startswith("[") else re.escape(part)) for part in parts]
    try:
        return re.compile("".join(kept).replace("[!", "[^"))
    except re.error as error:
        raise UserError(f"The tap {pattern!r} is no pattern: {error}.") from None


def _pooling_for(name: str, pattern: str, pooling: str | Mapping[str, str]) -> str:
    if isinstance(pooling, str):
        return pooling
    for key in (name, pattern):
        if key in pooling:
            return pooling[key]
    return next((how for key, how in pooling.items() if _glob(key).fullmatch(name)), "auto")


def _check_pooling_keys(pooling: Mapping[str, str], chosen: Mapping[str, str], vectors: set[str]) -> None:
    """Refuse a key that names no tap, or none but ``vectors``, which nothing pools."""
    for key, how in pooling.items():
        named = [name for name, pattern in chosen.items() if key in (name, pattern) or _glob(key).fullmatch(name)]
        if not named and key not in BEHIND:
            known = [*chosen, *chosen.values()]
            raise UserError(f"pooling names {key!r}, which is no tap of this model.{nearest(key, known)}")
        if how != "auto" and vectors.issuperset(named):
            raise UserError(f"pooling names {key!r}, which is a vector already: nothing pools it, leave it out.")
