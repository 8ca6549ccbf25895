"""Forward passes through a module that is only borrowed, and that other threads may be running at the same time.

Training flags and hooks belong to the module, so all threads share them: here the flags come back when the last of
several overlapping passes is over, and a hook acts in the thread that set it alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

exclusive = threading.RLock()
"""Held by what changes a module for the length of a pass (`run_with` swaps its parameters)."""

_lock = threading.RLock()


@dataclass
class _Held:
    """A module in evaluation mode for now: the flag it had, and how many blocks hold it."""

    training: bool
    blocks: int = 0


_held: dict[int, _Held] = {}


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, for every submodule; the flag that each had afterwards, also after an error.

    The flags are set one by one: a ``train`` of the module's own, which may do more, is not called.
    """
    layers = list(module.modules())
    with _lock:
        for layer in layers:
            held = _held.setdefault(id(layer), _Held(layer.training))
            if held.blocks == 0:
                _forget_biases(layer)
            held.blocks += 1
            layer.training = False
    try:
        yield
    finally:
        with _lock:
            for layer in layers:
                held = _held[id(layer)]
                held.blocks -= 1
                if held.blocks == 0:
                    _forget_biases(layer)
                    layer.training = held.training
                    del _held[id(layer)]


def _forget_biases(layer: Any) -> None:
    """Have timm's attentions (LeViT, TinyViT, EfficientFormer, ...) gather their biases anew from their weights: in
    evaluation mode they keep them until their ``train`` is called, whatever becomes of the weights."""
    if getattr(layer, "attention_bias_cache", None):
        layer.attention_bias_cache = {}


@contextmanager
def channels_last(module: nn.Module) -> Iterator[None]:
    """Convolutions with their weights as channels-last images need them, which each pass would bring about anew.

    No value differs. Afterwards the weights are where they were, also in memory, and what was written into them
    meanwhile is there.
    """
    laid_out: list[tuple[nn.Parameter, torch.Tensor, int]] = []
    with _lock:
        for weight in module.parameters():
            known = weight.dim() == 4 and weight.device.type == "cpu" and type(weight.data) is torch.Tensor
            if known and not weight.is_inference() and not weight.is_contiguous(memory_format=torch.channels_last):
                laid_out.append((weight, weight.data, weight._version))
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    try:
        yield
    finally:
        with _lock:
            for weight, original, version in laid_out:
                if weight._version != version:
                    original.copy_(weight.data)
                weight.data = original


def run_with(module: nn.Module, tensors: Mapping[str, torch.Tensor], *inputs: Any) -> Any:
    """What ``module`` gives for ``inputs`` with these tensors in place of its parameters and buffers of those names.

    A module that stands at two places holds its weights once, under two names: torch, left to itself, puts the tensors
    in twice and takes them out once, so they would stay.
    """
    shared = len(list(module.named_modules(remove_duplicate=False))) > len(list(module.modules()))
    with exclusive:
        return functional_call(module, dict(tensors), inputs, tie_weights=not shared)


def hook(layer: nn.Module, function: Callable[..., Any], *, before: bool = False) -> Callable[[], None]:
    """Set a forward hook that acts in this thread alone, and return what takes it off again.

    Args:
        layer: the module.
        function: as for `torch.nn.Module.register_forward_hook`.
        before: as for `torch.nn.Module.register_forward_pre_hook`.
    """
    mine = threading.get_ident()

    def acting_here(*arguments: Any) -> Any:
        return function(*arguments) if threading.get_ident() == mine else None

    register = layer.register_forward_pre_hook if before else layer.register_forward_hook
    # torch numbers hooks by a plain counter: two threads at once would get one number, and one hook would be lost.
    with _lock:
        handle = register(acting_here)

    def remove() -> None:
        with _lock:
            handle.remove()

    return remove
