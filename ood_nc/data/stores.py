"""Where the bytes of a data set come from, and how they become images. Every store can be sent to loader workers."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ood_nc.config import PixelConfig
from ood_nc.data.pixels import DEFAULT, PixelError, Pixels, eight_bits, is_wide, recognise, to_channels, within_limit

TAIL = 4096
_UNPACKED = (".bmp", ".dib", ".pbm", ".pgm", ".ppm", ".pnm", ".pfm", ".tif", ".tiff", ".tga", ".im", ".sgi", ".ras")
"""Of images that may be stored without packing, a change need not reach the end."""
_MOST_BYTES = 1 << 31


def check_bytes(size: int) -> None:
    """Refuse to read a file that is larger than any image, before memory is taken for it."""
    if size > _MOST_BYTES:
        raise OSError(f"{size} bytes are more than any image has")


def is_unpacked(name: str) -> bool:
    """Whether an image of this name may be stored without packing: its end then says nothing of the rest."""
    return name.lower().endswith(_UNPACKED)


class Store(ABC):
    """A sequence of encoded or raw images, addressed by position."""

    def __init__(self) -> None:
        self._marks: np.ndarray | None = None

    @abstractmethod
    def __len__(self) -> int:
        """How many images there are."""

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The whole content of an image: the bytes of its file, or its raw pixels."""

    def image(self, index: int) -> Pixels:
        """The image as it is stored: opened lazily in its own mode, or an array."""
        return recognise(self.read(index))

    def decode(self, index: int, pixels: PixelConfig = DEFAULT, channels: int = 3) -> Pixels:
        """The image as `to_channels` has it. Whatever a damaged file makes the decoders raise comes through."""
        return to_channels(within_limit(lambda: self.image(index), pixels), channels, pixels)

    def size(self, index: int) -> tuple[int, int]:
        """Width and height of an image as it is stored."""
        image = self.image(index)
        return image.size if isinstance(image, Image.Image) else (image.shape[1], image.shape[0])

    def tail(self, index: int) -> tuple[int, bytes]:
        """The size of the content in bytes, and its end: at least its last 4 KiB, all where those say too little."""
        content = self.read(index)
        return len(content), content

    def stamp(self, index: int) -> str:
        """What changes when the file of an image is replaced; empty where it has no file of its own."""
        return ""

    def mark(self, index: int) -> tuple[int, bytes]:
        """Size and a 16-byte hash of the content's end, remembered for the next call.

        The end is where a change shows: PNG closes with a checksum of all before it, JPEG is one running bit stream.
        What may be stored without packing (BMP, TIFF, ...) is marked by all of it.
        """
        if self._marks is None:  # zeros, which take no memory before they are written
            self._marks = np.zeros((len(self), 3), np.uint64)
        found = self._marks[index]
        if found[0] == 0:
            size, end = self.tail(index)
            found[1:] = np.frombuffer(hashlib.blake2b(end, digest_size=16).digest(), np.uint64)
            found[0] = size + 1
        return int(found[0]) - 1, found[1:].tobytes()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_marks": None}


class FileStore(Store):
    """Image files below a folder (names may also be absolute), found from whatever working folder they are read."""

    def __init__(self, root: str | Path, names: Sequence[str]) -> None:
        super().__init__()
        self.root = os.path.abspath(root)  # noqa: PTH100 (Path.absolute keeps ..)
        self.names = tuple(names)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> str:
        """Where the file is."""
        return os.path.join(self.root, self.names[index])  # noqa: PTH118 (a third of pathlib's time, once an image)

    def read(self, index: int) -> bytes:
        """The bytes of the file."""
        with open(self.path(index), "rb", buffering=0) as file:
            check_bytes(os.fstat(file.fileno()).st_size)
            return file.read()

    def size(self, index: int) -> tuple[int, int]:
        """Width and height, from the file's header."""
        with recognise(self.path(index)) as image:
            return image.size

    def stamp(self, index: int) -> str:
        """Size and time of the file; empty where it is gone."""
        try:
            status = os.stat(self.path(index))  # noqa: PTH116 (once an image)
        except OSError:
            return ""
        return f"{status.st_size} {status.st_mtime_ns}"

    def tail(self, index: int) -> tuple[int, bytes]:
        """Size and last 4 KiB of the file, or all of it (`is_unpacked`)."""
        if is_unpacked(self.names[index]):
            return super().tail(index)
        with open(self.path(index), "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - TAIL))
            return size, file.read(TAIL)


class ArrayStore(Store):
    """Images of one array, (N, H, W) or (N, H, W, C)."""

    def __init__(self, images: np.ndarray) -> None:
        super().__init__()
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> bytes:
        """The raw pixels."""
        return self.images[index].tobytes()

    def image(self, index: int) -> Pixels:
        """The values of the image."""
        return self.images[index]


class WrappedStore(Store):
    """A map-style data set whose items begin with an image: PIL, an array, or a tensor (C, H, W) or (H, W)."""

    def __init__(self, items: Any) -> None:
        super().__init__()
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def read(self, index: int) -> bytes:
        """The decoded pixels; how the other library stores them is its own."""
        return self.image(index).tobytes()

    def image(self, index: int) -> Pixels:
        """The item's image."""
        image = self.items[index][0]
        if isinstance(image, torch.Tensor):
            image = image.detach().cpu()
            image = (image.movedim(0, -1) if image.ndim == 3 else image).numpy()
        if not isinstance(image, (Image.Image, np.ndarray)):
            raise PixelError(f"its items begin with {type(image).__name__}, not with an image")
        return image


def verify(store: Store, index: int, pixels: PixelConfig = DEFAULT) -> float | None:
    """Decode an image far enough to know that it can be; JPEG at an eighth of the size, which reads every byte.

    Returns:
        Of integers with more than 8 bits, the largest one as a share of the range that their type has; else None.

    Raises:
        PixelError: no rule covers its values.
    """
    image = within_limit(lambda: store.image(index), pixels)
    if isinstance(image, Image.Image):
        image.draft("RGB", (1, 1))
        image.load()
    if not is_wide(image):
        return None
    values = eight_bits(image, pixels)
    return values.max(initial=0) / 255 if np.asarray(image).dtype.kind in "iu" else None
