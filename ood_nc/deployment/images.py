"""What a detector is given in Python: any kind of image with one meaning, as the batch that its network takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from ood_nc.data.dataset import reason as reason_of
from ood_nc.data.pixels import PixelError, read_image
from ood_nc.data.transforms import ModelTransform
from ood_nc.errors import UserError

ImageLike = str | Path | bytes | Image.Image | np.ndarray | torch.Tensor
Errors = Literal["raise", "row"]
_KINDS = "a path, encoded bytes, a PIL image, an array, a tensor, or a list of these"


def as_batch(
    images: ImageLike | Iterable[ImageLike], transform: ModelTransform, size: Sequence[int], errors: Errors = "raise"
) -> tuple[torch.Tensor | None, list[str | None]]:
    """Images as one batch (R, C, H, W), R of them readable (None where none is), and of each why it is not, or None.

    Args:
        images: as for `Detector.__call__`.
        transform: from a stored image to a tensor.
        size: (C, H, W) that the network takes.
        errors: ``raise`` at the first image that cannot be read, or keep its reason as its ``row``.

    Raises:
        UserError: no image, something that is none, or one that cannot be read.
    """
    if errors not in ("raise", "row"):
        raise UserError(f"errors must be 'raise' or 'row', got {errors!r}.")
    if isinstance(images, torch.Tensor) and images.is_floating_point() and images.ndim in (3, 4):
        batch = _prepared(images if images.ndim == 4 else images[None], size)
        return batch, [None] * len(batch)
    tensors: list[torch.Tensor] = []
    reasons: list[str | None] = []
    for position, image in enumerate(_listed(images)):
        try:
            tensors.append(_tensor(image, transform, size))
            reasons.append(None)
        except MemoryError:
            raise
        except Exception as error:  # damaged bytes make the decoders raise nearly anything
            why = reason_of(error)
            if errors == "raise":
                what = image if isinstance(image, (str, Path)) else f"{position} ({type(image).__name__})"
                raise UserError(f"Cannot read the image {what} ({why}).") from error
            reasons.append(why)
    if not reasons:
        raise UserError("No image was given.")
    return torch.stack(tensors) if tensors else None, reasons


def _listed(images: Any) -> Iterable[Any]:
    if isinstance(images, (str, Path, bytes, Image.Image)):
        return [images]
    if isinstance(images, np.ndarray) and images.ndim == 1 and images.dtype.kind in "OU":
        return images.tolist()
    if isinstance(images, (np.ndarray, torch.Tensor)):
        if images.ndim not in (2, 3, 4):
            raise UserError(f"Images must be (H, W), (H, W, C) or (B, H, W, C), got the shape {tuple(images.shape)}.")
        return images if images.ndim == 4 else [images]
    # Each line of an open file, each number of a bytearray would be taken for an image.
    is_one = isinstance(images, (dict, bytearray, memoryview)) or hasattr(images, "read")
    if is_one or not isinstance(images, Iterable):
        raise UserError(f"A detector judges {_KINDS}, got {type(images).__name__}.")
    return images


def _tensor(image: Any, transform: ModelTransform, size: Sequence[int]) -> torch.Tensor:
    if isinstance(image, torch.Tensor) and image.is_floating_point() and image.ndim == 3:
        return _prepared(image[None], size)[0]
    if isinstance(image, torch.Tensor):
        image = _channels_last(image.cpu().numpy(), transform.channels, first=True)
    elif isinstance(image, np.ndarray):
        image = _channels_last(image, transform.channels, first=False)
    elif not isinstance(image, (str, Path, bytes, Image.Image)):
        raise PixelError(f"expected {_KINDS}")
    return transform(read_image(image, transform.channels, transform.pixels))


def _channels_last(image: np.ndarray, channels: int, *, first: bool) -> np.ndarray:
    """Pixels as (H, W) or (H, W, C). Where both ends could be channels, tensors have them ``first``, arrays last."""
    if image.size == 0:
        raise PixelError(f"it is empty, of the shape {image.shape}")
    if image.ndim != 3:
        return image
    known = (1, 3) if channels in (1, 3) else (channels,)
    leading, trailing = image.shape[0] in known, image.shape[2] in known
    return np.moveaxis(image, 0, -1) if leading and (first or not trailing) else image


def _prepared(batch: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    if batch.shape[1:] != torch.Size(size):
        wanted = ", ".join(str(side) for side in size)
        raise UserError(
            f"A tensor of floats is an image that is prepared already, (B, {wanted}), got {tuple(batch.shape)}: use "
            "detector.transform, or give the image itself."
        )
    if len(batch) == 0:
        raise UserError("No image was given.")
    if not bool(batch.isfinite().all()):
        raise UserError("A prepared image holds NaN or infinity.")
    return batch
