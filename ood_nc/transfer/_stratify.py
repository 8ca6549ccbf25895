"""Random choices within each class."""

from __future__ import annotations

from typing import NamedTuple

import torch


class ShuffledClasses(NamedTuple):
    """Samples in class order, in random order within a class: their indices, classes, and places in the class."""

    indices: torch.Tensor
    classes: torch.Tensor
    places: torch.Tensor


def shuffle_classes(labels: torch.Tensor, generator: torch.Generator) -> ShuffledClasses:
    """Sort samples by class, shuffled within each; the same on every device, as the generator lives on the CPU."""
    shuffled = torch.randperm(len(labels), generator=generator).to(labels.device)
    classes, order = labels[shuffled].sort(stable=True)
    counts = labels.bincount()
    places = torch.arange(len(labels), device=labels.device) - (counts.cumsum(0) - counts)[classes]
    return ShuffledClasses(shuffled[order], classes, places)


def hold_out(labels: torch.Tensor, share: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of the samples that are kept and of those held out: ``share`` of each class, rounded.

    At least one sample of a class is held out and at least one kept; a class with a single sample is kept.
    """
    indices, classes, places = shuffle_classes(labels, torch.Generator().manual_seed(seed))
    counts = labels.bincount()
    quota = torch.where(counts > 1, (counts * share).round().clamp(min=1).minimum(counts - 1), 0)
    held_out = places < quota[classes]
    return indices[~held_out].sort().values, indices[held_out].sort().values
