"""The one door for arrays: NumPy arrays, torch tensors or sequences in, torch tensors out; the input never changes.

No value changes on the way either: what a tensor of numbers cannot hold exactly is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch

from ood_nc.errors import UserError

MAX_CLASSES = 2**24
"""Labels at or above this are no class indices: a count of so many classes alone would take 128 MiB."""
_IGNORED = 255
"""What data sets write for "no class" where labels are bytes."""
_WITHIN_INT64 = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
ArrayLike: TypeAlias = "np.ndarray[Any, Any] | torch.Tensor | Sequence[Any]"

EXACT_IN_FLOAT32 = 2**24
EXACT_IN_FLOAT64 = 2**53
"""Up to here every integer is a number of its own."""


@contextmanager
def without_autocast() -> Iterator[None]:
    """Products in the precision of their arrays: inside, or in what it decorates, also where autocast is on outside."""
    with ExitStack() as stack:
        for kind in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def as_tensor(values: ArrayLike, name: str = "values") -> torch.Tensor:
    """Return ``values`` as a detached tensor of the same dtype and device; the memory may be shared, so only read it.

    Args:
        values: NumPy array (any layout, read-only too), torch tensor, or sequence of numbers.
        name: what the caller calls it, for the message.

    Raises:
        UserError: not real numbers (complex, objects, text, dates), masked values, a sparse tensor, rows of
            unequal length, or a list whose integers would be rounded to floats.
    """
    if isinstance(values, torch.Tensor):
        if values.is_complex() or values.layout != torch.strided:
            raise UserError(f"{name} must be a dense tensor of real numbers, got {values.dtype}, {values.layout}.")
        return values.detach()
    array = _as_array(values, name)
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        raise UserError(f"{name} must be numeric (real, up to 64 bits), got an array of dtype {array.dtype}.")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    return torch.from_numpy(array)


def as_signed(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """``tensor``, unsigned integers of more than 8 bits as int64, which torch and NumPy calculate with exactly.

    Raises:
        UserError: an integer above 2^63 - 1.
    """
    if tensor.dtype not in (torch.uint16, torch.uint32, torch.uint64):
        return tensor
    signed = tensor.long()
    if tensor.dtype == torch.uint64 and bool((signed < 0).any()):
        raise UserError(f"{name} holds integers above 2^63 - 1.")
    return signed


def _as_array(values: Any, name: str) -> np.ndarray[Any, Any]:
    parts = [values] if isinstance(values, np.ndarray) else values if isinstance(values, Sequence) else []
    if any(isinstance(part, np.ma.MaskedArray) and np.ma.is_masked(part) for part in parts):
        raise UserError(f"{name} has masked values: leave them out or fill them first.")
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise UserError(f"{name} must be an array of numbers: {' '.join(str(error).split())}") from None
    if not isinstance(values, np.ndarray) and array.dtype == np.float64 and (np.abs(array) >= EXACT_IN_FLOAT64).any():
        for number in np.asarray(values, dtype=object).flat:
            if isinstance(number, int) and int(float(number)) != number:
                raise UserError(
                    f"{name} holds {number}, which float64 rounds: give integers below 2^63, and no floats."
                )
    return array


def as_matrix(values: ArrayLike, name: str = "features") -> torch.Tensor:
    """Return ``values`` as a floating-point matrix (N, d), its dtype kept.

    Integers become float32, or float64 where float32 would round them.

    Raises:
        UserError: not two-dimensional (the message names pooling for feature maps and token sequences), or integers
            that float64 would round.
    """
    tensor = as_tensor(values, name)
    if tensor.ndim != 2:
        hint = " Pool feature maps or tokens first (a tap's `pooling`)." if tensor.ndim > 2 else ""
        raise UserError(f"{name} must have shape (N, d), got {tuple(tensor.shape)}.{hint}")
    if tensor.is_floating_point():
        return tensor
    tensor = as_signed(tensor, name)
    largest = 0 if tensor.dtype == torch.bool or not tensor.numel() else max(abs(int(tensor.min())), int(tensor.max()))
    if largest > EXACT_IN_FLOAT64:
        raise UserError(f"{name} holds integers above 2^53, which floating point would round.")
    return tensor.float() if largest <= EXACT_IN_FLOAT32 else tensor.double()


def as_labels(
    values: ArrayLike, n: int | None = None, name: str = "labels", *, num_classes: int | None = None
) -> torch.Tensor:
    """Return ``values``, whole numbers of any dtype, as class indices: an int64 vector (N,).

    The one door for labels. What marks a sample without a class is refused, never taken for one: negative numbers; and,
    where ``num_classes`` is not known, a 255 that stands apart from classes which fill 0 to K - 1.

    Args:
        values: (N,) of any numeric dtype; 3.0 is class 3.
        n: how many there must be.
        name: what the caller calls it, for the message.
        num_classes: C, where the classes are known to be 0 to C - 1.

    Raises:
        UserError: not one-dimensional, not ``n`` of them, not whole numbers, negative, or not below ``num_classes``
            (:data:`MAX_CLASSES` where that is not known); before any memory is taken for so many classes.

    Example:
        >>> as_labels([0.0, 2.0, 1.0])
        tensor([0, 2, 1])
    """
    tensor = as_tensor(values, name)
    if tensor.ndim != 1:
        raise UserError(f"{name} must have shape (N,), got {tuple(tensor.shape)}.")
    if n is not None and len(tensor) != n:
        raise UserError(f"{name} has {len(tensor)} entries for {n} samples.")
    # float64 holds every class index exactly, and what is none (NaN, 1e20, uint64 above int64) as such.
    numbers = tensor.long() if tensor.dtype in _WITHIN_INT64 else on_float64_device(tensor).double()
    bad = (numbers < 0) | (numbers >= (num_classes or MAX_CLASSES))
    if numbers.is_floating_point():
        bad |= numbers != numbers.floor()
    if bool(bad.any()):
        raise _label_error(numbers, bad, name, num_classes or MAX_CLASSES)
    labels = numbers.long().to(tensor.device)
    if num_classes is None and len(labels) and int(labels.max()) == _IGNORED:
        _refuse_ignored(labels, name)
    return labels


def on_float64_device(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, on the CPU where its device has no float64 (Apple's GPUs)."""
    return tensor.cpu() if tensor.device.type == "mps" else tensor


def _refuse_ignored(labels: torch.Tensor, name: str) -> None:
    """Refuse a 255 that stands apart from classes which fill most of 0 to the largest of them."""
    others = labels[labels != _IGNORED].unique()
    if len(others) < 2:
        return
    num_classes = int(others[-1]) + 1
    absent = num_classes - len(others)
    if absent < min(len(others), _IGNORED - num_classes):
        raise _label_error(labels, labels == _IGNORED, name, num_classes)


def _label_error(numbers: torch.Tensor, bad: torch.Tensor, name: str, num_classes: int) -> UserError:
    place = int(bad.nonzero()[0])
    value = numbers[place].item()
    whole = math.isfinite(value) and value == int(value)
    wanted = f"in 0..{num_classes - 1}" if whole else "whole numbers (class indices)"
    is_mark = not math.isfinite(value) or value < 0 or value == _IGNORED
    advice = "leave out the samples without a class, which it marks" if is_mark else "number the classes from 0"
    shown = f"{value:.6g}" if isinstance(value, float) else str(value)
    return UserError(f"{name} must be {wanted}, got {shown} in entry {place} ({int(bad.sum())} in all): {advice}.")
