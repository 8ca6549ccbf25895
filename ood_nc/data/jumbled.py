"""Outliers made of held-out ID images: their colours and strokes without the objects they made up.

Hendrycks, Mazeika, Dietterich, *Deep Anomaly Detection with Outlier Exposure* (ICLR 2019), tune on images made from the
ID set alone, among them jigsaws and means of images; these are of the two kinds in which the class is lost. (Noise,
blur and inverted colours leave the object what it was: they would ask a detector to reject what it should accept.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from ood_nc.data.dataset import ImageDataset
from ood_nc.data.pixels import Pixels

JUMBLED_IMAGES = 512
"""The most images that are jumbled: what they choose between differs by more than their number leaves open."""
_GRIDS = (2, 3, 4)


class Jumbled:
    """A transform behind one that jumbles; equal images are jumbled alike, whatever their place.

    Attributes:
        inner: what comes after.
        pixels: its pixel rules.
        channels: those its model takes.
    """

    def __init__(self, inner: Callable[[Pixels], Any]) -> None:
        self.inner = inner
        self.pixels: Any = getattr(inner, "pixels", None)
        self.channels: int = getattr(inner, "channels", 3)

    def __call__(self, image: Pixels) -> Any:
        """What ``inner`` makes of the jumbled image."""
        return self.inner(jumble(image))


def jumble(image: Pixels) -> Pixels:
    """A jigsaw of 2 x 2 to 4 x 4 pieces, or the mean of the image and itself upside down, by the image's content.

    Args:
        image: a Pillow image, or uint8 (H, W, C).

    Returns:
        The same type and size.
    """
    values = np.asarray(image)
    digest = hashlib.blake2b(np.ascontiguousarray(values).tobytes(), digest_size=8).digest()
    generator = np.random.default_rng(int.from_bytes(digest, "big"))
    if generator.random() < 0.5:
        made = _jigsaw(values, int(generator.choice(_GRIDS)), generator)
    else:
        made = ((values.astype(np.uint16) + values[::-1, ::-1]) // 2).astype(values.dtype)
    return made if isinstance(image, np.ndarray) else Image.fromarray(made)


def jumbled(dataset: ImageDataset) -> ImageDataset:
    """At most `JUMBLED_IMAGES` images of a set, evenly spaced in its order, behind its transform jumbled.

    Example:
        >>> from ood_nc.data import open_dataset
        >>> digits = open_dataset("bundled/digits-id::test").subset(range(20)).with_transform(np.asarray)
        >>> len(jumbled(digits)), jumbled(digits).targets.tolist() == digits.targets.tolist()
        (20, True)
    """
    assert dataset.transform is not None
    rows = np.linspace(0, len(dataset) - 1, min(JUMBLED_IMAGES, len(dataset))).astype(int)
    view = dataset.subset(rows, name=f"{dataset.name} (jumbled)")
    return view.with_transform(Jumbled(dataset.transform)).with_pixels(dataset.pixels)


def _jigsaw(values: np.ndarray, grid: int, generator: np.random.Generator) -> np.ndarray:
    """The pieces of a grid in another order; what is left over at the right and below stays where it is."""
    height, width = (size // grid for size in values.shape[:2])
    made, pieces = values.copy(), grid * grid
    order = generator.permutation(pieces)
    if (order == np.arange(pieces)).all():
        order = np.roll(order, 1)
    for place, source in enumerate(order):
        (top, left), (above, before) = divmod(place, grid), divmod(int(source), grid)
        piece = values[above * height : (above + 1) * height, before * width : (before + 1) * width]
        made[top * height : (top + 1) * height, left * width : (left + 1) * width] = piece
    return made
