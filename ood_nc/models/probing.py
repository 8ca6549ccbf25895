"""One forward pass that records what every module is given and puts out, in the order in which that happens."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ood_nc.models.pooling import Layout
from ood_nc.passes import evaluating, exclusive, run_with

BATCH = 2
INPUT = "@input"
"""Behind a module's name: what it is given, in place of what it puts out."""
_POSITIVE = (nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Hardsigmoid, nn.Softplus, nn.Softmax)
_KEEPS_SIGN = re.compile(r"Pool|Drop|Flatten|Identity")
_CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)


@dataclass
class Trace:
    """What one pass showed. Modules that ran are in ``outputs`` in the order of their (last) completion.

    Attributes:
        output: what the whole module returned.
        output_nonnegative: whether that is nonnegative by construction (None: not known).
        outputs: module name to output; None where it is no single tensor.
        nonnegative: module name to whether its output is nonnegative by construction (None: not known).
        makers: module name to the last module with weights that ran before it finished.
        before: the same of what each module is given, its first argument, just before it runs.
        steps: when each happened: module name for its end, with `INPUT` behind it for its beginning.
        image_size: (height, width) of the images.
    """

    image_size: tuple[int, int]
    output: Any = None
    output_nonnegative: bool | None = None
    outputs: dict[str, torch.Tensor | None] = field(default_factory=dict)
    nonnegative: dict[str, bool | None] = field(default_factory=dict)
    makers: dict[str, nn.Module | None] = field(default_factory=dict)
    before: Trace | None = None
    steps: dict[str, int] = field(default_factory=dict)

    @property
    def inputs(self) -> Trace:
        """What each module is given."""
        assert self.before is not None
        return self.before


def trace(module: nn.Module, image_shape: tuple[int, int, int]) -> Trace:
    """Run ``module`` once on images of ``image_shape`` (C, H, W) and record every module's output.

    On the meta device, so without arithmetic or memory, where the module allows it. Evaluation mode, which is undone
    afterwards; no weight, buffer or random state changes.
    """
    reference = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    with exclusive, evaluating(module), torch.no_grad():
        try:
            state = {k: v.to("meta") for k, v in [*module.named_parameters(), *module.named_buffers()]}
            images = torch.zeros(BATCH, *image_shape, device="meta", dtype=reference.dtype)
            return _record(module, lambda: run_with(module, state, images), image_shape)
        except Exception:  # a module may do on meta tensors what they cannot; the real pass then says what is wrong
            images = torch.zeros(BATCH, *image_shape, device=reference.device, dtype=reference.dtype)
            return _record(module, lambda: module(images), image_shape)


def single_tensor(output: Any) -> torch.Tensor | None:
    """Return the one floating-point tensor that an output is or holds, None when there is none or more than one."""
    parts = output if isinstance(output, (tuple, list)) else [output]
    tensors = [part for part in parts if isinstance(part, torch.Tensor) and part.is_floating_point()]
    return tensors[0] if len(tensors) == 1 else None


def layout_of(name: str, module: nn.Module, seen: Trace, backbone: nn.Module) -> Layout | None:
    """Return how the output of ``name`` is laid out; None when it is not one row of positions by channels a sample.

    With ``seen.inputs`` for ``seen``, how its input is.
    """
    output = seen.outputs.get(name)
    if output is None or output.shape[0] != BATCH or not 2 <= output.ndim <= 4:
        return None
    if output.ndim == 2:
        return Layout("vector")
    if output.ndim == 3:
        return _sequence_layout(output.shape, module, backbone)
    first, last = (_in_proportion(output.shape[i : i + 2], seen.image_size) for i in (2, 1))
    if first and last:
        channels_last = str(getattr(backbone, "output_fmt", "")).upper().endswith("NHWC")
        return Layout("nhwc" if channels_last or isinstance(module, nn.Linear) else "nchw")
    if not first and not last:
        return Layout("nchw") if isinstance(seen.makers[name], _CHANNELS_FIRST) else None
    return Layout("nhwc" if last else "nchw")


def _sequence_layout(shape: torch.Size, module: nn.Module, backbone: nn.Module) -> Layout:
    prefix = int(getattr(backbone, "num_prefix_tokens", 0) or 0)
    embeddings = (getattr(backbone, name, None) for name in ("patch_embed", "stem"))
    patches = next((count for e in embeddings if (count := getattr(e, "num_patches", None))), None)
    tokens_second = shape[1] in (patches, (patches or 0) + prefix)
    tokens_third = shape[2] in (patches, (patches or 0) + prefix)
    if isinstance(module, (nn.Conv1d, nn.BatchNorm1d)) or (tokens_third and not tokens_second):
        return Layout("sequence")
    has_prefix = prefix > 0 and shape[1] == patches + prefix if patches else shape[1] > prefix > 0
    if not has_prefix:
        return Layout("tokens")
    averaged = 0 if getattr(backbone, "pool_include_prefix", False) else prefix
    return Layout("tokens", prefix=averaged, class_token=bool(getattr(backbone, "has_class_token", True)))


def _in_proportion(size: torch.Size, image_size: tuple[int, int]) -> bool:
    """Whether a map of this size has the image's aspect ratio, to less than a pixel."""
    return abs(size[0] * image_size[1] - size[1] * image_size[0]) < max(image_size)


def _record(module: nn.Module, run: Any, image_shape: tuple[int, int, int]) -> Trace:
    size = (image_shape[1], image_shape[2])
    seen = Trace(image_size=size, before=Trace(image_size=size))
    signs: dict[int, bool | None] = {}
    alive: list[Any] = []  # so that no id in `signs` is given to another tensor
    maker: list[nn.Module | None] = [None]

    def note(of: Trace, name: str, tensor: torch.Tensor | None) -> None:
        of.outputs[name], of.nonnegative[name], of.makers[name] = tensor, signs.get(id(tensor)), maker[0]
        seen.steps[name if of is seen else name + INPUT] = len(alive)

    def watch(name: str, child: nn.Module) -> list[Any]:
        is_leaf = next(child.children(), None) is None
        has_weights = next(child.parameters(recurse=False), None) is not None

        def begins(_: nn.Module, args: tuple[Any, ...]) -> None:
            alive.append(args)
            note(seen.inputs, name, single_tensor(args[0]) if args else None)

        def ends(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            tensor = single_tensor(output)
            alive.append(output)
            if has_weights:
                maker[0] = child
            if is_leaf and tensor is not None:
                source = signs.get(id(args[0])) if args else None
                signs[id(tensor)] = _sign(child, has_weights, source)
            seen.outputs.pop(name, None)
            note(seen, name, tensor)

        return [child.register_forward_pre_hook(begins), child.register_forward_hook(ends)]

    handles = [handle for name, child in module.named_modules() for handle in watch(name, child)]
    try:
        seen.output = run()
        seen.output_nonnegative = signs.get(id(seen.output))
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _sign(leaf: nn.Module, has_weights: bool, source: bool | None) -> bool | None:
    if isinstance(leaf, _POSITIVE):
        return True
    if has_weights:
        return False
    if _KEEPS_SIGN.search(type(leaf).__name__):
        return source
    return False if isinstance(leaf, (nn.GELU, nn.SiLU, nn.Hardswish, nn.Mish, nn.Tanh, nn.ELU)) else None
