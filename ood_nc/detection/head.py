"""The linear head behind a tap."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ood_nc.arrays import ArrayLike, as_matrix, as_tensor
from ood_nc.detection.errors import check_finite
from ood_nc.detection.kit import linalg
from ood_nc.errors import UserError

_DIVERGED = "the training has diverged; take an earlier checkpoint"


class Head(NamedTuple):
    """The linear head that reads the features: logits = features weight' + bias."""

    weight: Tensor
    bias: Tensor

    def to(self, device: torch.device) -> Head:
        """The same head on a device."""
        return Head(self.weight.to(device), self.bias.to(device))

    def logits(self, features: Tensor) -> Tensor:
        """Logits (B, C) in float64."""
        weight = self.weight.to(features.device, torch.float64)
        bias = self.bias.to(features.device, torch.float64)
        return linalg.by_chunks(lambda rows: torch.addmm(bias, rows.double(), weight.T), features)


def as_head(head: tuple[ArrayLike, ArrayLike | None] | None, dim: int | None) -> Head | None:
    """Check a head; a bias of None counts as zeros.

    Raises:
        UserError: shapes disagree.
        NonFiniteError: weight or bias holds NaN or infinity.
    """
    if head is None:
        return None
    checked = head if isinstance(head, Head) else _checked_copy(*head)
    width = checked.weight.shape[1]
    if dim is not None and width != dim:
        raise UserError(f"The head reads {width} features per sample, the tap has {dim}: it is another tap's.")
    return checked


def _checked_copy(weight: ArrayLike, bias: ArrayLike | None) -> Head:
    # A copy: the detector keeps it, and the caller's may go on training.
    weights = as_matrix(weight, "head weight").to(torch.float64, copy=True)
    check_finite(weights, "head weight", _DIVERGED)
    if bias is None:
        return Head(weights, weights.new_zeros(len(weights)))
    biases = as_tensor(bias, "head bias").to(weights.device, torch.float64, copy=True)
    if biases.shape != weights.shape[:1]:
        raise UserError(f"head bias must have shape ({len(weights)},), got {tuple(biases.shape)}.")
    check_finite(biases, "head bias", _DIVERGED)
    return Head(weights, biases)
