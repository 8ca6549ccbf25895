"""Convolutions whose maps have become so small that one matrix product is faster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_POSITIONS = 4 * 4
_WEIGHTS = 2**19
_IMAGES = 8


class SmallMaps(TorchFunctionMode):
    """Convolutions onto maps of at most 4 x 4 as one product of all windows with the weights, inside a ``with`` block.

    oneDNN goes through all weights of a convolution once for every line of a map. Where a line is two or three pixels
    and the weights are more than a core's cache holds, as in the last stage of a ResNet at 64 px, it waits for them:
    the product, which reads them once, takes a third of the time. Values differ by rounding. What the product is not
    faster for stays as it is: larger maps, few images, few weights, groups, other types than float32.

    Inference only, and of the thread that enters it, as `torch.inference_mode` is.

    Example:
        >>> import torch
        >>> from ood_nc.features.small_maps import SmallMaps
        >>> layer, maps = torch.nn.Conv2d(512, 512, 3, padding=1), torch.randn(16, 512, 2, 2)
        >>> with torch.inference_mode(), SmallMaps():
        ...     found = layer(maps)
        >>> torch.allclose(found, layer(maps), atol=1e-5)
        True
    """

    @staticmethod
    def serve(model: Any) -> bool:
        """Whether a model has weights that a product may be faster with; a mode costs every call of torch some time."""
        return any(weight.dim() == 4 and weight.numel() > _WEIGHTS for weight in model.parameters())

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """A convolution on small maps, and anything else as it is."""
        kwargs = kwargs or {}
        if func is torch.conv2d:
            return _convolution(*args, **kwargs)
        return func(*args, **kwargs)


def _convolution(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> torch.Tensor:
    """`torch.nn.functional.conv2d`, by a product where that is faster."""
    if _is_for_a_product(input, weight, padding, dilation, groups):
        sides, steps = _pair(padding), _pair(stride)
        map_size = [
            (length + 2 * side - window) // step + 1
            for length, side, window, step in zip(input.shape[2:], sides, weight.shape[2:], steps, strict=True)
        ]
        if min(map_size) > 0 and map_size[0] * map_size[1] <= _POSITIONS:
            return _product(input, weight, bias, steps, sides)
    return F.conv2d(input, weight, bias, stride, padding, dilation, groups)


def _is_for_a_product(input: torch.Tensor, weight: torch.Tensor, padding: Any, dilation: Any, groups: int) -> bool:
    """Whether it is one, but for the size of the maps."""
    if groups != 1 or weight.numel() <= _WEIGHTS or input.dim() != 4 or len(input) < _IMAGES:
        return False
    if isinstance(padding, str) or _pair(dilation) != (1, 1) or input.shape[1] != weight.shape[1]:
        return False
    known = all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in (input, weight))
    return known and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")


def _product(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    steps: tuple[int, int],
    sides: tuple[int, int],
) -> torch.Tensor:
    """All windows (B, H, W, K, L, C), each a row, with the weights of every channel (K L C)."""
    (top, left), (high, wide) = sides, weight.shape[2:]
    padded = F.pad(input.permute(0, 2, 3, 1), (0, 0, left, left, top, top))
    windows = padded.unfold(1, high, steps[0]).unfold(2, wide, steps[1]).permute(0, 1, 2, 4, 5, 3)
    return F.linear(windows.flatten(3), weight.permute(0, 2, 3, 1).flatten(1), bias).permute(0, 3, 1, 2)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])
