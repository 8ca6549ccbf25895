"""Forward passes of one fixed shape, so that what a network says of an image is the same whatever comes with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

_PIXELS = 224 * 224
_ON_GPU = 32


def in_blocks(
    function: Callable[[torch.Tensor], tuple[torch.Tensor, ...]], images: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Apply a function of images (B, C, H, W), row by row independent, in blocks of one size; rows joined again.

    Kernels are chosen by the size of a batch and round differently (by 1e-6 of a feature), which a detector that
    whitens a collapsed tap multiplies. So every block has the same size, the last one filled up with its last image: on
    a GPU 32 images, on a processor about as many pixels as one image of 224 x 224, where more at once are no faster.
    """
    parts = [tuple(output[:kept] for output in function(block)) for block, kept in _blocks(images)]
    return tuple(torch.cat(outputs) for outputs in zip(*parts, strict=True))


def _blocks(images: torch.Tensor) -> Iterator[tuple[torch.Tensor, int]]:
    size = _ON_GPU if images.device.type == "cuda" else max(1, _PIXELS // (images.shape[-2] * images.shape[-1]))
    # No image is one block without any: the function says what is wrong with that.
    for start in range(0, max(1, len(images)), size):
        block = images[start : start + size]
        missing = size - len(block) if len(block) else 0
        yield torch.cat([block, block[-1:].expand(missing, -1, -1, -1)]) if missing else block, len(block)
