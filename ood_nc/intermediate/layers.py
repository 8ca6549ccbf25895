"""The linear and convolutional layers of a network in the order in which they run, and what each is given, unpooled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from ood_nc.errors import UserError
from ood_nc.passes import evaluating, exclusive, hook


@dataclass(frozen=True)
class Layer:
    """One use of a layer with weights.

    Attributes:
        name: the module's name; of one that runs again (tied weights) the second use is ``name#2``.
        depth: its place in the order in which layers run, from 0.
        module: the layer.
        shape: of one sample's input, without the batch.
    """

    name: str
    depth: int
    module: nn.Linear | nn.Conv2d
    shape: tuple[int, ...]

    @property
    def dim(self) -> int:
        """The number of values in one sample's input."""
        return int(torch.Size(self.shape).numel())


def weighted_layers(model: nn.Module, images: torch.Tensor) -> list[Layer]:
    """Every linear and 2-d convolutional layer whose input has a row a sample, in the order in which they run.

    Args:
        model: any network.
        images: at least one, preprocessed; one pass in evaluation mode is made, of one image twice: a layer that is
            given a single row whatever the batch, as tables of relative positions are, would look like one of a sample.

    Raises:
        UserError: there is none.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> [(layer.name, layer.dim) for layer in weighted_layers(network, torch.zeros(1, 1, 2, 2))]
        [('1', 4), ('3', 3)]
    """
    seen: list[tuple[str, tuple[int, ...]]] = []
    images = images if len(images) > 1 else images.repeat_interleave(2, dim=0)
    watched = watch_inputs(model, lambda name, values: seen.append((name, tuple(values.shape))))
    with exclusive, evaluating(model), torch.no_grad(), watched:
        model(images)
    modules = dict(model.named_modules())
    found = [(name, shape[1:]) for name, shape in seen if shape[0] == len(images)]
    if not found:
        raise UserError("The network has no linear or convolutional layer that is given a row a sample.")
    return [
        Layer(name, depth, cast("nn.Linear | nn.Conv2d", modules[name.split("#")[0]]), shape)
        for depth, (name, shape) in enumerate(found)
    ]


@contextmanager
def watch_inputs(model: nn.Module, take: Callable[[str, torch.Tensor], None]) -> Iterator[None]:
    """Inside the block, hand every layer's name and input (B, ...) to ``take``, at every pass, before the layer runs.

    Args:
        model: any network.
        take: is given the tensor itself: it must neither change nor keep it.
    """
    uses: dict[str, int] = {}

    def taker(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def called(_: nn.Module, args: tuple[Any, ...]) -> None:
            uses[name] = uses.get(name, 0) + 1
            take(name if uses[name] == 1 else f"{name}#{uses[name]}", args[0].detach())

        return called

    with ExitStack() as hooks:
        hooks.callback(hook(model, lambda *_: uses.clear(), before=True))
        for name, module in model.named_modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                hooks.callback(hook(module, taker(name), before=True))
        yield
