"""A thin adapter around an image classifier: its logits, the outputs of named layers, gradients of the images.

The module is only borrowed. It runs in eval mode and gets its training flags back, hooks are removed after every pass,
also after one that raised, neither parameters, nor buffers, nor their ``.grad`` ever change, and
any number of threads may use it at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ood_nc.arrays import ArrayLike, as_tensor, on_float64_device
from ood_nc.detection._stages import Visit, stages_of, visiting_hook
from ood_nc.detection.errors import check_finite
from ood_nc.errors import UserError, nearest
from ood_nc.passes import evaluating, hook

Edit = Callable[[Tensor], Tensor]


@dataclass
class Pass:
    """What one forward pass gave.

    Attributes:
        logits: (B, C).
        outputs: of the layers that were read, by name; of a layer that ran several times, the last.
        features: (B, d), what the head read; None where it was not asked for.
    """

    logits: Tensor
    outputs: dict[str, Tensor] = field(default_factory=dict)
    features: Tensor | None = None


class Network:
    """Any module that maps images (B, ...) to logits (B, C), each image on its own when in eval mode.

    Args:
        module: the classifier; it stays where it is, and images follow to its device and dtype.

    Raises:
        UserError: not a module.

    Example:
        >>> network = Network(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
        >>> done = network.run(torch.zeros(3, 1, 2, 2), read=["0"], with_features=True)
        >>> tuple(done.logits.shape), tuple(done.outputs["0"].shape), tuple(done.features.shape)
        ((3, 2), (3, 4), (3, 4))
    """

    def __init__(self, module: nn.Module) -> None:
        if not isinstance(module, nn.Module):
            raise UserError(f"A network must be a torch.nn.Module, got {type(module).__name__}.")
        self.module = module
        self._layers: dict[str, nn.Module] = {name: layer for name, layer in module.named_modules() if name}
        self._traces: dict[tuple[int, ...], tuple[Visit, ...]] = {}

    @property
    def device(self) -> torch.device:
        """Where the first parameter or buffer is; the CPU where there is none."""
        return self._reference().device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the first floating-point parameter or buffer."""
        return self._reference().dtype

    def prepare(self, images: ArrayLike, first_row: int = 0) -> Tensor:
        """Images (B, ...) as the module takes them: on its device, in its dtype, checked to be finite.

        Raises:
            UserError: no floating-point batch.
            NonFiniteError: NaN or infinity; rows count from ``first_row``.
        """
        tensor = as_tensor(images, "images")
        if tensor.ndim < 2 or not tensor.is_floating_point():
            raise UserError(
                f"images must be a floating-point batch (B, ...), preprocessed as the network expects, got "
                f"{tensor.dtype} of shape {tuple(tensor.shape)}."
            )
        check_finite(tensor, "images", first_row=first_row)
        return tensor.to(self.device, self.dtype)

    def logits(self, images: Tensor) -> Tensor:
        """Logits (B, C), with gradients where they are enabled."""
        return self.run(images).logits

    def run(
        self,
        images: Tensor,
        *,
        read: Iterable[str] = (),
        replace: Mapping[str, Edit] | None = None,
        with_features: bool = False,
    ) -> Pass:
        """One forward pass, with gradients where they are enabled.

        Args:
            images: (B, ...), as :meth:`prepare` returns them.
            read: layers whose outputs to keep; after ``replace``, where both name one.
            replace: layer to a function that maps its output to another one; called each time the layer runs.
            with_features: keep what the head reads.

        Raises:
            UserError: unknown layer, a layer that did not run or whose output is no tensor, no linear head, or an
                output that is no (B, C).
        """
        done = Pass(images)
        read = tuple(read)
        edits = dict(replace or {})
        with ExitStack() as stack:
            stack.enter_context(evaluating(self.module))
            if with_features:
                stack.callback(hook(self.head(images), _head_hook(done), before=True))
            for name in dict.fromkeys((*edits, *read)):
                edited = _output_hook(name, edits.get(name), done.outputs if name in read else None)
                stack.callback(hook(self.layer(name), edited))
            done.logits = self._checked_output(self.module(images), len(images))
        missing = [name for name in read if name not in done.outputs]
        if missing:
            raise UserError(f"Layer {missing[0]!r} does not run in the network's forward pass.")
        return done

    def input_gradient(
        self, images: Tensor, loss: Callable[[Pass], Tensor], *, read: Iterable[str] = (), with_features: bool = False
    ) -> tuple[Tensor, Pass]:
        """Gradient of each image's loss by that image (B, ...), and the pass it comes from, detached.

        The gradient of the batch's sum is that of each image alone, since no other image's loss depends on it.

        Args:
            images: (B, ...), as :meth:`prepare` returns them.
            loss: a pass to the losses (B,).
            read: as in :meth:`run`.
            with_features: as in :meth:`run`.

        Raises:
            UserError: as :meth:`run`, or the network cuts the graph.
        """
        with torch.inference_mode(False), torch.enable_grad():
            leaf = images.clone().detach().requires_grad_()
            done = self.run(leaf, read=read, with_features=with_features)
            total = loss(done).sum()
            if not total.requires_grad:
                raise UserError("The network's output has no gradient by its images: it runs under no_grad.")
            (gradient,) = torch.autograd.grad(total, leaf)
        outputs = {name: output.detach() for name, output in done.outputs.items()}
        features = None if done.features is None else done.features.detach()
        return gradient, Pass(done.logits.detach(), outputs, features)

    def layer(self, name: str) -> nn.Module:
        """The submodule of that name.

        Raises:
            UserError: there is none.
        """
        if name not in self._layers:
            raise UserError(f"The network has no layer {name!r}.{nearest(name, self._layers)}")
        return self._layers[name]

    def head(self, images: Tensor) -> nn.Module:
        """The linear layer whose output (B, C) the logits are.

        Raises:
            UserError: the logits are not the output of a layer with a weight (C, d).
        """
        heads = [visit.name for visit in self.trace(images) if visit.is_head]
        if not heads:
            raise UserError("The network's logits are not the output of a linear layer, so there is no head to read.")
        return self._layers[heads[-1]]

    def stages(self, images: Tensor) -> tuple[str, ...]:
        """The last layer run at each size of feature map (B, C, H, W), in depth order: what a ResNet's stages give.

        Maps of one place, layers that run several times (an activation module that blocks share) and the first layers
        inside a block that makes its map smaller do not count.

        Raises:
            UserError: there is no feature map, or the network goes on with tokens (B, T, d) or with channels-last maps
                after the last one.
        """
        return stages_of(self.trace(images))

    def trace(self, images: Tensor) -> tuple[Visit, ...]:
        """The submodules in the order in which they finish, from one pass of the first image (kept by image size)."""
        key = tuple(images.shape[1:])
        if key not in self._traces:
            self._traces[key] = self._traced(images[:1])
        return self._traces[key]

    def _traced(self, image: Tensor) -> tuple[Visit, ...]:
        visits: list[Visit] = []
        outputs: list[Tensor] = []
        with ExitStack() as stack, torch.no_grad():
            stack.enter_context(evaluating(self.module))
            for name, layer in self._layers.items():
                stack.callback(hook(layer, visiting_hook(name, visits, outputs)))
            logits = self._checked_output(self.module(image), len(image))
        return tuple(
            visit._replace(is_head=_is_linear(self._layers[visit.name]) and torch.equal(output, logits))
            for visit, output in zip(visits, outputs, strict=True)
        )

    def _checked_output(self, output: Any, count: int) -> Tensor:
        if not isinstance(output, torch.Tensor) or output.ndim != 2 or len(output) != count:
            shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
            raise UserError(f"The network must return logits (B, C) of {count} images, it returned {shape}: wrap it.")
        return output

    def _reference(self) -> Tensor:
        state = chain(self.module.parameters(), self.module.buffers())
        return next((tensor for tensor in state if tensor.is_floating_point()), torch.empty(0))


def wide(tensor: Tensor) -> Tensor:
    """In float64; on the CPU where the device has no float64 (Apple's GPUs)."""
    return on_float64_device(tensor).double()


def _is_linear(layer: nn.Module) -> bool:
    weight = getattr(layer, "weight", None)
    return isinstance(weight, torch.Tensor) and weight.ndim == 2 and not any(True for _ in layer.children())


def _head_hook(done: Pass) -> Callable[..., None]:
    def reading(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        done.features = arguments[0]

    return reading


def _output_hook(name: str, edit: Edit | None, kept: dict[str, Tensor] | None) -> Callable[..., Tensor]:
    def edited(layer: nn.Module, arguments: Any, output: Any) -> Tensor:
        if not isinstance(output, torch.Tensor):
            raise UserError(f"Layer {name!r} returns {type(output).__name__}, not one tensor: name another.")
        result = output if edit is None else edit(output)
        if kept is not None:
            kept[name] = result
        return result

    return edited
