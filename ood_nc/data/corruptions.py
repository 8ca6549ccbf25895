"""Covariate shift on the fly: the fifteen corruptions of ImageNet-C at five severities, of any set of images.

    corrupted/fog-3/cifar10::test      # severity 3 of fog on SOURCE cifar10::test
    corrupted/mixed/cifar10::test      # one of the 75 for each image

The corruptions are Hendrycks and Dietterich's ("Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019) as `corrupt-tta` has them, which replaces ImageMagick in motion blur and snow: numbers are
comparable with each other, not digit by digit with those on the published files. As there, an image with a shorter
side above 224 pixels is first resized to 256 and cut to 224 x 224, for which the severities were made.
"""

from __future__ import annotations

import copy
import hashlib
import threading
from typing import Any

import numpy as np
from PIL import Image

from ood_nc.config import PixelConfig
from ood_nc.data.dataset import ImageDataset
from ood_nc.data.pixels import DEFAULT, Pixels, to_channels, to_rgb
from ood_nc.data.stores import Store
from ood_nc.errors import MissingPackageError, UserError, nearest

CORRUPTIONS = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
"""The fifteen of ImageNet-C: noise, blur, weather, digital."""
SEVERITIES = range(1, 6)
MIXED = "mixed"

_RESIZED, _CUT = 256, 224
_SALT_AND_PEPPER = (0.03, 0.06, 0.09, 0.17, 0.27)
_one_at_a_time = threading.Lock()


def corrupted(dataset: ImageDataset, corruption: str, severity: int | None = None, *, seed: int = 0) -> ImageDataset:
    """A view of a set whose images are corrupted as they are read.

    What is random depends on the seed and the content of the image alone: not on its name, its place or the process.

    Args:
        dataset: whose labels and classes stay.
        corruption: one of `CORRUPTIONS`, or ``mixed``.
        severity: 1 to 5; none for ``mixed``, which draws both for each image.
        seed: of what is random.

    Raises:
        UserError: no such corruption or severity.
        MissingPackageError: the extra is not installed.
    """
    kinds = (*CORRUPTIONS, MIXED)
    if corruption not in kinds:
        raise UserError(
            f"No corruption {corruption!r}.{nearest(corruption, kinds) or ' There are ' + ', '.join(kinds)}."
        )
    if not (severity is None if corruption == MIXED else severity in SEVERITIES):
        raise UserError(f"A corruption has a severity of 1 to 5, {MIXED} has none: e.g. fog-3, got {severity!r}.")
    _library()
    view = copy.copy(dataset)
    view.store = _CorruptedStore(dataset.store, corruption, severity or 0, seed)
    view.name = f"{dataset.name} ({corruption}{f' {severity}' if severity else ''})"
    view._fingerprint = None
    return view


class _CorruptedStore(Store):
    """Another store's images, corrupted."""

    def __init__(self, inner: Store, corruption: str, severity: int, seed: int) -> None:
        super().__init__()
        self.inner, self.corruption, self.severity, self.seed = inner, corruption, severity, seed

    def __len__(self) -> int:
        return len(self.inner)

    def read(self, index: int) -> bytes:
        """The content of the image that is corrupted, and how it is."""
        return f"{self.corruption} {self.severity} {self.seed}\n".encode() + self.inner.read(index)

    def image(self, index: int) -> Pixels:
        """The corrupted image, RGB."""
        return self._corrupted(index, to_rgb(self.inner.image(index)))

    def decode(self, index: int, pixels: PixelConfig = DEFAULT, channels: int = 3) -> Pixels:
        """The image that the rules make of what is stored, corrupted."""
        plain = self.inner.decode(index, pixels)
        assert isinstance(plain, Image.Image)
        return to_channels(self._corrupted(index, plain), channels, pixels)

    def _corrupted(self, index: int, plain: Image.Image) -> Image.Image:
        content = hashlib.blake2b(self.read(index), digest_size=8).digest()
        generator = np.random.default_rng(int.from_bytes(content, "little"))
        corruption, severity = self.corruption, self.severity
        if corruption == MIXED:
            corruption, severity = str(generator.choice(CORRUPTIONS)), int(generator.integers(1, 6))
        image = _as_published(plain)
        return Image.fromarray(_applied(np.asarray(image), corruption, severity, int(generator.integers(2**32))))


def _as_published(image: Image.Image) -> Image.Image:
    """The size at which ImageNet-C corrupts, of an image that is larger."""
    if min(image.size) <= _CUT:
        return image
    scale = _RESIZED / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = (image.width - _CUT) // 2, (image.height - _CUT) // 2
    return image.crop((left, top, left + _CUT, top + _CUT))


def _applied(pixels: np.ndarray, corruption: str, severity: int, seed: int) -> np.ndarray:
    """One corruption by the library, which draws from NumPy's global state: set for it, and put back."""
    library = _library()
    if corruption == "impulse_noise":  # the one that draws from a generator of its own
        from skimage.util import random_noise

        amount = _SALT_AND_PEPPER[severity - 1]
        return (random_noise(pixels / 255, mode="s&p", amount=amount, rng=seed) * 255).astype(np.uint8)
    with _one_at_a_time:
        state = np.random.get_state()  # noqa: NPY002 (what the library uses)
        try:
            np.random.seed(seed)  # noqa: NPY002
            found = library.corrupt(pixels, severity=severity, corruption_name=corruption)
        finally:
            np.random.set_state(state)  # noqa: NPY002
    return np.asarray(found).clip(0, 255).astype(np.uint8)


def _library() -> Any:
    try:
        import corrupt_tta
    except ImportError as error:
        raise MissingPackageError(
            f"Corruptions need corrupt-tta ({error}): pip install 'ood_nc[corruptions]'."
        ) from None
    return corrupt_tta
