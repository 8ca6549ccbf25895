"""The one door for arrays: NumPy arrays, torch tensors or sequences in, torch tensors out; the input never changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from ood_nc.errors import UserError

ArrayLike: TypeAlias = "np.ndarray[Any, Any] | torch.Tensor | Sequence[Any]"


def as_tensor(values: ArrayLike, name: str = "values") -> torch.Tensor:
    """Return ``values`` as a detached tensor of the same dtype and device; the memory may be shared, so only read it.

    Args:
        values: NumPy array (any layout, read-only too), torch tensor, or sequence of numbers.
        name: what the caller calls it, for the message.

    Raises:
        UserError: not numeric.
    """
    if isinstance(values, torch.Tensor):
        return values.detach()
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise UserError(f"{name} must be numeric, got an array of dtype {array.dtype}.")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    return torch.from_numpy(array)


def as_matrix(values: ArrayLike, name: str = "features") -> torch.Tensor:
    """Return ``values`` as a floating-point matrix (N, d), its dtype kept (integers become float32).

    Raises:
        UserError: not two-dimensional (the message names pooling for feature maps and token sequences).
    """
    tensor = as_tensor(values, name)
    if tensor.ndim != 2:
        hint = " Pool feature maps or tokens first (a tap's `pooling`)." if tensor.ndim > 2 else ""
        raise UserError(f"{name} must have shape (N, d), got {tuple(tensor.shape)}.{hint}")
    return tensor if tensor.is_floating_point() else tensor.float()


def as_labels(values: ArrayLike, n: int | None = None, name: str = "labels") -> torch.Tensor:
    """Return ``values`` as an int64 vector (N,).

    Raises:
        UserError: not one-dimensional, not whole numbers, or not ``n`` of them.
    """
    tensor = as_tensor(values, name)
    if tensor.ndim != 1:
        raise UserError(f"{name} must have shape (N,), got {tuple(tensor.shape)}.")
    if n is not None and len(tensor) != n:
        raise UserError(f"{name} has {len(tensor)} entries for {n} samples.")
    if tensor.is_floating_point() and not bool((tensor == tensor.round()).all()):
        raise UserError(f"{name} must be whole numbers (class indices).")
    return tensor.long()
