"""How stored values become the 8-bit pixels a model was made for: one rule for each way of storing them.

| stored | becomes |
|---|---|
| 8 bits or fewer: 1, L, P, RGB, YCbCr, LAB, HSV, CMYK | RGB by Pillow; grey in all three channels |
| with transparency: LA, PA, RGBA, a transparent colour | laid over `PixelConfig.background` |
| 16-bit grey, unsigned | ``value_range`` to 0..255; where not given, all that the file's bits can hold |
| other integers | ``value_range`` to 0..255; where not given, refused |
| floating point | ``value_range`` to 0..255; where not given, 0..1 is, and an image beyond it is refused |
| NaN, infinity, complex numbers | refused |

Values outside a ``value_range`` that was given are moved to its ends. The rules are part of a model's preprocessing
(``preprocessing["pixels"]``), so that training, evaluation and the deployed detector read an image alike. Formats that
need another program (EPS) or that Pillow only recognises (GRIB, HDF5, MPEG, ...) are no images here.
"""

from __future__ import annotations

import functools
import io
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ood_nc.config import PixelConfig
from ood_nc.errors import UserError

DEFAULT = PixelConfig()
Pixels = Image.Image | np.ndarray
_NO_PICTURES = frozenset({"EPS", "BUFR", "GRIB", "HDF5", "WMF", "MPEG"})
_COMMON = ("JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP", "PPM", "AVIF", "JPEG2000")
_REMARKS = frozenset({"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"})
_BITS_TAG, _ORIENTATION_TAG = 258, 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def pixel_rules(preprocessing: Mapping[str, Any]) -> PixelConfig:
    """The rules that a model's preprocessing holds; the defaults where it holds none."""
    return PixelConfig(**preprocessing.get("pixels", {}))


class PixelError(UserError):
    """An image whose values or size no rule covers; the message says what would."""


@functools.cache
def image_formats() -> tuple[str, ...]:
    """The formats that are read, in the order in which they are tried: those that Pillow decodes by itself.

    Common ones come first, and last those that have no mark to know them by and take nearly any bytes for theirs.
    """
    Image.init()
    rank = {name: place for place, name in enumerate(_COMMON)}
    known = [name for name in Image.ID if name not in _NO_PICTURES]
    return tuple(sorted(known, key=lambda name: (Image.OPEN[name][1] is None, rank.get(name, len(rank)))))


@functools.cache
def image_suffixes() -> frozenset[str]:
    """The endings of file names that make a file an image, in lower case."""
    known = {*image_formats(), "MPO"}  # MPO is read as the JPEG that it begins with
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in known)


def recognise(source: str | Path | bytes) -> Image.Image:
    """Open a path, or the bytes of a file, lazily: format, mode and size are known, nothing is decoded.

    Raises:
        OSError: not there, or no image.
    """
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=image_formats())


def within_limit(opener: Callable[[], Pixels], pixels: PixelConfig = DEFAULT) -> Pixels:
    """What ``opener`` opens lazily, if it is no larger than ``max_pixels``.

    A limit above Pillow's own raises that for the whole process.

    Raises:
        PixelError: it is larger.
    """
    if Image.MAX_IMAGE_PIXELS is not None and pixels.max_pixels > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = math.ceil(pixels.max_pixels / 2)
    try:
        image = opener()
    except Image.DecompressionBombError as error:
        raise _too_large(int((re.findall(r"\d+", str(error)) or [0])[0]), pixels.max_pixels) from None
    size = image.width * image.height if isinstance(image, Image.Image) else math.prod(image.shape[:2])
    if size > pixels.max_pixels:
        raise _too_large(size, pixels.max_pixels)
    return image


def read_image(source: str | Path | bytes | Pixels, channels: int = 3, pixels: PixelConfig = DEFAULT) -> Pixels:
    """Any one image as a model of so many channels is given it: `within_limit`, then `to_channels`.

    Raises:
        PixelError: no rule covers it, or it is too large.
        OSError: not there, damaged, or no image.
    """
    if isinstance(source, (Image.Image, np.ndarray)):
        return to_channels(within_limit(lambda: source, pixels), channels, pixels)
    # By its bytes, as in data sets: of a path Pillow 13 maps a TIFF that is to be turned as if it were turned already.
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    return to_channels(within_limit(lambda: recognise(content), pixels), channels, pixels)


def to_channels(image: Pixels, channels: int = 3, pixels: PixelConfig = DEFAULT) -> Pixels:
    """What a model of so many input channels is given.

    Models of one and of three channels get RGB; the transform of the former makes it grey. For any other number an
    image has to hold exactly that many: an array (H, W, C), or a file whose mode has them (LA, RGBA, CMYK).

    Args:
        image: a PIL image, or an array (H, W) or (H, W, C).
        channels: input channels of the model.
        pixels: the rules.

    Returns:
        An RGB image, or uint8 (H, W, ``channels``).

    Raises:
        PixelError: another number of channels, or values without a rule.
    """
    if channels in (1, 3):
        return to_rgb(image, pixels)
    values = image if isinstance(image, np.ndarray) else np.asarray(_upright(image, image, pixels))
    found = 1 if values.ndim == 2 else values.shape[-1]
    if values.ndim != 3 or found != channels:
        raise PixelError(f"it has {found} channels, the model takes {channels} (model.in_chans)")
    return eight_bits(values, pixels)


def to_rgb(image: Pixels, pixels: PixelConfig = DEFAULT) -> Image.Image:
    """An image as 8-bit RGB, by the rules of this module.

    Args:
        image: a PIL image, or an array (H, W), (H, W, 1) or (H, W, 3).
        pixels: the rules.

    Raises:
        PixelError: values or channels without a rule.

    Example:
        >>> import numpy as np
        >>> from ood_nc.config import PixelConfig
        >>> twelve_bits = np.full((1, 1), 2048, dtype=np.uint16)
        >>> stated = PixelConfig(value_range=(0, 4095))
        >>> to_rgb(twelve_bits).getpixel((0, 0)), to_rgb(twelve_bits, stated).getpixel((0, 0))
        ((8, 8, 8), (128, 128, 128))
    """
    if isinstance(image, np.ndarray):
        values = image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image
        if values.ndim != 2 and (values.ndim != 3 or values.shape[-1] != 3):
            raise PixelError(f"it has the shape {image.shape}, expected (H, W) or (H, W, 3)")
        return Image.fromarray(eight_bits(values, pixels)).convert("RGB")
    if is_wide(image):
        return _upright(Image.fromarray(eight_bits(image, pixels)), image, pixels).convert("RGB")
    image = _upright(image, image, pixels)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        return _over(image.convert("RGBA"), pixels)
    return image.convert("RGB")


def is_wide(image: Pixels) -> bool:
    """Whether an image holds more than 8 bits a channel, so that a rule on ranges applies."""
    if isinstance(image, np.ndarray):
        return image.dtype not in (np.uint8, np.bool_)
    return image.mode.startswith("I") or image.mode == "F"


def eight_bits(image: Pixels, pixels: PixelConfig = DEFAULT) -> np.ndarray:
    """Values of any real type as uint8, by the rule of their type.

    Raises:
        PixelError: no rule covers them.
    """
    values = np.asarray(image)
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind not in "iuf":
        raise PixelError(f"its values are {values.dtype}, which has no rule")
    low, high = pixels.value_range or _own_range(values, image)
    if values.size == 0:
        return values.astype(np.uint8)
    least, most = float(values.min()), float(values.max())
    if not math.isfinite(least + most):
        raise PixelError("it holds NaN or infinite values")
    if pixels.value_range is None and not low <= least <= most <= high:
        raise PixelError(_no_rule(f"its values go from {least:.6g} to {most:.6g}", f"{low:.6g} to {high:.6g}"))
    scaled = (values.astype(np.float64) - low) * (255 / (high - low))
    return np.rint(scaled.clip(0, 255)).astype(np.uint8)


def _own_range(values: np.ndarray, image: Pixels) -> tuple[float, float]:
    """The range that the type of the values says they have."""
    if values.dtype.kind == "f":
        return 0.0, 1.0
    if values.dtype.newbyteorder("=") == np.uint16 or getattr(image, "mode", "").startswith("I;16"):
        bits = getattr(image, "tag_v2", {}).get(_BITS_TAG, (16,))[0]
        return 0.0, float(2**bits - 1)
    # Until its version 10.3, Pillow gave 16-bit PNG, and to this day PGM, the mode of 32 bits.
    if getattr(image, "format", None) in ("PNG", "PPM"):
        return 0.0, float(2**16 - 1)
    raise PixelError(_no_rule(f"its values are {values.dtype}", "unsigned of 16 bits"))


def _upright(image: Image.Image, stored: Image.Image, pixels: PixelConfig) -> Image.Image:
    """``image`` turned as the remarks in ``stored`` say."""
    image.load()
    if not pixels.orientation or not (hasattr(stored, "tag_v2") or _REMARKS & stored.info.keys()):
        return image
    try:
        turn = _TURNS.get(stored.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # damaged remarks leave a whole picture
        turn = None
    if turn is None:
        return image
    turned = image.transpose(turn)
    # Without the remark, or whoever looks at the image again would turn it again.
    turned.info = {key: value for key, value in image.info.items() if key == "transparency"}
    return turned


def _over(image: Image.Image, pixels: PixelConfig) -> Image.Image:
    if pixels.background == "ignore":
        return image.convert("RGB")
    ground = Image.new("RGBA", image.size, pixels.background)
    return Image.alpha_composite(ground, image).convert("RGB")


def _no_rule(what: str, known: str) -> str:
    return f"{what}, not {known}: say which are black and white (--value-range)"


def _too_large(size: int, limit: int) -> PixelError:
    return PixelError(f"{size / 1e6:.1f} megapixels, the limit is {limit / 1e6:.1f} (--max-pixels)")
