"""Small pictures of images, for pages that stand alone."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from ood_nc.data.pixels import Pixels

THUMBNAIL = 56
"""The longer side where many stand together, in pixels."""


def thumbnail(image: Pixels, side: int = THUMBNAIL) -> str:
    """An image as a ``data:`` address of a JPEG of at most ``side`` pixels; of other than 1 or 3 channels, their mean.

    Small images are enlarged by whole factors, so that their pixels can be seen.

    Args:
        image: a Pillow image, or uint8 (H, W, C).
        side: the longer one, in pixels.
    """
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image.mean(axis=-1).round().astype(np.uint8) if image.ndim == 3 else image)
    image = image.convert("RGB")
    factor = side // max(image.size)
    if factor > 1:
        image = image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)
    image.thumbnail((side, side))
    text = io.BytesIO()
    image.save(text, "JPEG", quality=75)
    return f"data:image/jpeg;base64,{base64.b64encode(text.getvalue()).decode()}"
