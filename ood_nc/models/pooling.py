"""From a module's output to one vector a sample: feature maps in either layout, and token sequences."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ood_nc.errors import UserError, nearest

POOLINGS = ("auto", "avg", "max", "token", "flatten", "avg2x2")


@dataclass(frozen=True)
class Layout:
    """How a module's output is laid out.

    Attributes:
        kind: ``vector`` (B, d), ``tokens`` (B, N, d), ``sequence`` (B, d, N), ``nchw`` or ``nhwc``.
        prefix: class and register tokens in front of the patch tokens.
        class_token: whether the first of them is a class token.
    """

    kind: str
    prefix: int = 0
    class_token: bool = False


@dataclass(frozen=True)
class Pooling:
    """One way to turn an output of one layout into (B, d). The result never shares memory with the input.

    None of the reductions keeps the input for its backward pass, so a later in-place operation may overwrite it.

    Attributes:
        name: ``none`` (already a vector), ``avg``, ``max``, ``token``, ``flatten`` or ``avg2x2``.
        layout: of the input.
    """

    name: str
    layout: Layout

    def __call__(self, output: torch.Tensor) -> torch.Tensor:
        """Return the pooled copy (B, d) of a module's output."""
        if self.name in ("none", "flatten"):
            return output.clone(memory_format=torch.contiguous_format).flatten(1)
        if self.name == "token":
            return output[:, 0].clone(memory_format=torch.contiguous_format)
        maps = _channels_first(output, self.layout)
        if self.name == "avg":
            return maps.mean(dim=tuple(range(2, maps.ndim)))
        if self.name == "max":
            # Not amax: its backward pass compares with the input, which may be overwritten by then.
            return maps.flatten(2).max(dim=2).values
        return _quadrant_means(maps)


def resolve(how: str, layout: Layout, shape: tuple[int, ...], tap: str) -> Pooling:
    """Return the pooling that ``how`` means for a tap of this layout; ``auto`` is the average over positions.

    Class and register tokens are left out of averages and maxima, as timm's own pooling leaves them out.

    Raises:
        UserError: an unknown name, or one that this layout does not have (``token`` without a class token).
    """
    if how not in POOLINGS:
        raise UserError(
            f"Unknown pooling {how!r} of tap {tap!r}: use one of {', '.join(POOLINGS)}.{nearest(how, POOLINGS)}"
        )
    if layout.kind == "vector":
        return Pooling("none", layout)
    name = "avg" if how == "auto" else how
    if name == "token" and not (layout.kind == "tokens" and layout.class_token):
        raise UserError(f"Tap {tap!r} has no class token to pool by 'token': its output is {shape}. Use avg.")
    if name == "avg2x2" and layout.kind in ("tokens", "sequence"):
        count = shape[1] - layout.prefix if layout.kind == "tokens" else shape[2]
        if math.isqrt(count) ** 2 != count:
            raise UserError(f"Tap {tap!r} cannot be pooled 2x2: its {count} tokens are no square grid. Use avg.")
    return Pooling(name, layout)


def _channels_first(output: torch.Tensor, layout: Layout) -> torch.Tensor:
    if layout.kind == "nhwc":
        return output.permute(0, 3, 1, 2)
    if layout.kind == "tokens":
        return output[:, layout.prefix :].transpose(1, 2)
    return output


def _quadrant_means(maps: torch.Tensor) -> torch.Tensor:
    """Adaptive average pooling to 2 x 2, flattened, by means: its own backward pass would keep the input."""
    if maps.ndim == 3:  # tokens of a square grid
        maps = maps.unflatten(2, (math.isqrt(maps.shape[2]), -1))
    height, width = maps.shape[2:]
    rows = (maps[:, :, : (height + 1) // 2], maps[:, :, height // 2 :])
    cells = [half for row in rows for half in (row[..., : (width + 1) // 2], row[..., width // 2 :])]
    return torch.stack([cell.mean(dim=(2, 3)) for cell in cells], dim=2).flatten(1)
