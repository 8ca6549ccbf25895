"""Collapsed layers as associative memories: a layer that only looks up class means needs no more than rank C."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from ood_nc.errors import UserError
from ood_nc.intermediate.layers import Layer
from ood_nc.intermediate.measurement import Batches
from ood_nc.passes import evaluating


@torch.no_grad()
def low_rank_accuracy(
    model: nn.Module, layers: Sequence[Layer], batches: Batches, *, rank: int, device: torch.device | str = "cpu"
) -> float:
    """Top-1 accuracy with the weights of ``layers`` replaced by their best approximation of this rank.

    Args:
        model: any network of images to logits; unchanged afterwards.
        layers: of `weighted_layers`; none gives the accuracy of the network as it is.
        batches: (images, labels).
        rank: of each weight, a convolution's taken as (C_out, C_in k k).
        device: where the model is.

    Raises:
        UserError: no images.

    Source: Rangamani et al., ICML 2023 (their discussion of associative memories).

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from ood_nc.intermediate import weighted_layers
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
        >>> _ = network[1].weight.data.copy_(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
        >>> images, labels = torch.eye(2).view(2, 1, 1, 2), torch.tensor([0, 1])
        >>> layers = weighted_layers(network, images)
        >>> [low_rank_accuracy(network, layers, [(images, labels)], rank=rank) for rank in (2, 1)]
        [1.0, 0.5]
    """
    right = count = 0
    with evaluating(model), _reduced(layers, rank):
        for images, labels in batches:
            right += int((model(images.to(device)).argmax(dim=1) == labels.to(device)).sum())
            count += len(labels)
    if not count:
        raise UserError("There are no images to be right on.")
    return right / count


@contextmanager
def _reduced(layers: Sequence[Layer], rank: int) -> Iterator[None]:
    modules = list(dict.fromkeys(layer.module for layer in layers))  # of tied layers one
    before = [module.weight.detach().clone() for module in modules]
    try:
        for module in modules:
            matrix = module.weight.detach().flatten(1).double()
            left, lengths, right = torch.linalg.svd(matrix, full_matrices=False)
            kept = (left[:, :rank] * lengths[:rank]) @ right[:rank]
            module.weight.copy_(kept.view_as(module.weight))
        yield
    finally:
        for module, weight in zip(modules, before, strict=True):
            module.weight.copy_(weight)
