"""Weights that no loss reads, which several processes leave as they are, as one process does.

Several wait for the gradient of every weight, so `take_turn` gives those that no loss reads one of zeros. An optimiser
takes zeros for a gradient: it would decay these weights, while it passes over those that have none.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ood_nc.models import ControlledModel


class Unread:
    """The trainable weights behind no output that a loss has read so far, in any process.

    Args:
        model: the whole one, before its weights are shared out.
        accelerator: the processes; each must make the same calls.
    """

    def __init__(self, model: ControlledModel, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        behind = _weights_behind(model)
        self._behind = [*behind, behind[0]]  # the logits of outliers, where there are some, come last
        self._left = {name for names in self._behind for name in names}

    def see(self, loss: torch.Tensor, outputs: Sequence[torch.Tensor]) -> None:
        """Take what a loss reads.

        Args:
            loss: with its graph, before zeros are added to it.
            outputs: what it can read, from `outputs_of`.
        """
        if not self._left:
            return
        read = _are_read(loss, outputs).to(self._accelerator.device)
        for names, count in zip(self._behind, self._accelerator.reduce(read).tolist(), strict=False):
            self._left -= names if count > 0 else set()

    def leave(self, model: nn.Module) -> None:
        """Take their gradients away."""
        for name in self._left:
            model.get_parameter(name).grad = None


def outputs_of(
    logits: torch.Tensor,
    taps: Mapping[str, torch.Tensor],
    heads: Mapping[str, tuple[torch.Tensor, torch.Tensor | None]],
    outliers: torch.Tensor | None = None,
) -> list[torch.Tensor]:
    """All that a loss can read of a model, in one order."""
    parts = [part for head in heads.values() for part in head if part is not None]
    return [logits, *taps.values(), *parts, *([] if outliers is None else [outliers])]


def _weights_behind(model: ControlledModel) -> list[set[str]]:
    """The names of the trainable weights that each output is made of."""
    image = next(model.parameters()).new_zeros((1, *model.preprocessing["input_size"]))
    training = model.training
    with torch.enable_grad():
        logits, taps = model.eval()(image, taps=True)  # which moves no batch statistics
    model.train(training)
    names = {get_gradient_edge(weight): name for name, weight in model.named_parameters() if weight.requires_grad}
    found = ([output] if output.requires_grad else [] for output in outputs_of(logits, taps, model.heads))
    return [{names[edge] for edge in _reached(roots, names) if edge in names} for roots in found]


def _are_read(loss: torch.Tensor, outputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """Whether a loss hangs on each output."""
    edges = [get_gradient_edge(output) if output.requires_grad else None for output in outputs]
    reached = _reached([loss] if loss.requires_grad else [], {edge for edge in edges if edge is not None})
    return torch.tensor([float(edge in reached) for edge in edges])


def _reached(roots: Iterable[torch.Tensor], ends: Container[GradientEdge]) -> set[GradientEdge]:
    """The edges of a graph, from its roots down to those where the way ends."""
    found: set[GradientEdge] = set()
    ahead = [get_gradient_edge(root) for root in roots]
    while ahead:
        edge = ahead.pop()
        if edge in found:
            continue
        found.add(edge)
        if edge not in ends:
            ahead += [GradientEdge(node, number) for node, number in edge.node.next_functions if node is not None]
    return found
