"""Made-up pictures whose spectrum falls as that of photographs does, so that detail, colour and contrast are alike."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def picture(seed: int, size: tuple[int, int] = (96, 80)) -> Image.Image:
    """A random picture of this width and height."""
    width, height = size
    generator = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.fftfreq(width)[None] * width)
    planes = []
    for _ in range(3):
        noise = np.fft.fft2(generator.normal(size=(height, width)))
        plane = np.fft.ifft2(noise / np.maximum(frequency, 1)).real
        planes.append((plane - plane.mean()) / plane.std())
    # Channels of a photograph are alike: what they share is three times what is each one's own.
    shared = planes[0]
    colors = np.stack([shared + plane / 3 for plane in planes], axis=-1)
    return Image.fromarray((128 + 45 * colors).clip(0, 255).astype(np.uint8))


def save(folder: Path, pictures: Iterable[Image.Image], kind: str = "png", **settings: Any) -> list[Path]:
    """Write pictures as 000.png, 001.png, ... and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, image in enumerate(pictures):
        paths.append(folder / f"{index:03d}.{kind}")
        image.save(paths[-1], **settings)
    return paths
