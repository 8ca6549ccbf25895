"""One look at every image of a set: what it resembles, what gives it away, and whether it can be read at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

from ood_nc.data.audit.cues import header_cues, pixel_cues
from ood_nc.data.dataset import ImageDataset, look_through
from ood_nc.data.pixels import Pixels, eight_bits, to_rgb, within_limit

SIDE = 16
"""Pixels along a side of the thumbnail that descriptors are made of."""
_FROM = 64
_LEAST_CONTRAST = 4.0
# Photographs have amplitudes that fall as one over the frequency: without the weight, a bright sky over dark ground
# would resemble every other one. Half of that slope keeps the noise of compression small beside the picture.
_WEIGHT = np.sqrt(np.hypot(*np.meshgrid(np.arange(SIDE), np.arange(SIDE))))


@dataclass(frozen=True)
class Looks:
    """What was seen of the n images of a set that can be read.

    Attributes:
        places: positions in the set (n,), int64.
        descriptors: unit vectors (n, 256), float16; the inner product of two says how alike the images are.
        distinct: whether an image has enough contrast to be compared (n,), bool.
        cues: values of the columns in `ood_nc.data.audit.CUES` (n, columns), float32.
        formats: images of each format, ``array`` for those that are stored as pixels.
        broken: id of each image that cannot be read, and why.
    """

    places: NDArray[np.int64]
    descriptors: NDArray[np.float16]
    distinct: NDArray[np.bool_]
    cues: NDArray[np.float32]
    formats: dict[str, int]
    broken: list[tuple[str, str]]


def look(dataset: ImageDataset, *, workers: int = 0) -> Looks:
    """Decode every image once, JPEG at a fraction of its size, and keep 0.6 KB of each.

    Args:
        dataset: what to look through; its pixel rules apply.
        workers: threads that decode.
    """
    places: list[int] = []
    parts: list[tuple[NDArray[Any], ...]] = []
    formats: Counter[str] = Counter()
    broken: list[tuple[str, str]] = []
    for chunk in look_through(dataset, partial(_seen, dataset), f"looking at {dataset.name}", workers):
        broken += [(dataset.ids[index], one) for index, one in chunk if isinstance(one, str)]
        whole = [(index, one) for index, one in chunk if not isinstance(one, str)]
        places += [index for index, _ in whole]
        formats.update(one[0] for _, one in whole)
        parts.append(_described(one for _, one in whole))
    descriptors, distinct, cues = (np.concatenate(column) for column in zip(*(parts or [_described([])]), strict=True))
    return Looks(np.array(places, dtype=np.int64), descriptors, distinct, cues, dict(formats.most_common()), broken)


def mirrored(descriptors: NDArray[Any]) -> NDArray[Any]:
    """The descriptors of the mirrored images: the odd horizontal frequencies change their sign."""
    return descriptors * np.tile(np.where(np.arange(SIDE) % 2, -1, 1), SIDE).astype(descriptors.dtype)


def _described(seen: Iterable[tuple[str, NDArray[Any], list[float]]]) -> tuple[NDArray[Any], ...]:
    """Descriptors, whether they are distinct, and cues of some images."""
    listed = list(seen)
    thumbnails = np.array([thumbnail for _, thumbnail, _ in listed], dtype=np.float32).reshape(-1, SIDE, SIDE)
    waves = dctn(thumbnails, axes=(1, 2), norm="ortho") * _WEIGHT  # the mean has weight 0
    flat = waves.reshape(len(waves), -1)
    lengths = np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
    cues = np.array([values for *_, values in listed], dtype=np.float32).reshape(len(listed), -1)
    return (flat / lengths).astype(np.float16), thumbnails.std(axis=(1, 2)) >= _LEAST_CONTRAST, cues


def _seen(dataset: ImageDataset, index: int) -> tuple[str, NDArray[Any], list[float]]:
    """Format, thumbnail and cues of an image."""
    stored = within_limit(lambda: dataset.store.image(int(dataset.rows[index])), dataset.pixels)
    cues, kind = header_cues(stored), getattr(stored, "format", None) or "array"
    image = _small(stored, dataset)
    thumbnail = image.convert("L").convert("F").resize((SIDE, SIDE), Image.Resampling.BOX)
    return kind, np.asarray(thumbnail), cues + pixel_cues(image)


def _small(stored: Pixels, dataset: ImageDataset) -> Image.Image:
    """RGB with a shorter side of 64 to 128 pixels, or as small as it is."""
    if isinstance(stored, Image.Image):
        stored.draft("RGB", (_FROM, _FROM))
    elif stored.ndim == 3 and stored.shape[-1] not in (1, 3):
        stored = eight_bits(stored, dataset.pixels).mean(axis=-1).astype(np.uint8)
    image = to_rgb(stored, dataset.pixels)
    return image.reduce(max(1, min(image.size) // _FROM))


def evenly(places: Sequence[int] | NDArray[Any], most: int) -> NDArray[np.int64]:
    """At most so many of the numbers, evenly spread."""
    chosen = np.unique(np.linspace(0, max(0, len(places) - 1), min(most, len(places))).astype(np.int64))
    return np.asarray(places, dtype=np.int64)[chosen]
