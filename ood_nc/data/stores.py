"""Where the bytes of a data set come from, and how they become images. Every store can be sent to loader workers."""

from __future__ import annotations

import hashlib
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

TAIL = 4096


class Store(ABC):
    """A sequence of encoded or raw images, addressed by position."""

    def __init__(self) -> None:
        self._marks: dict[int, tuple[int, bytes]] = {}

    @abstractmethod
    def __len__(self) -> int:
        """How many images there are."""

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The whole content of an image: the bytes of its file, or its raw pixels."""

    def image(self, index: int) -> Image.Image:
        """The decoded image, in whatever mode it is stored."""
        return Image.open(io.BytesIO(self.read(index)))

    def size(self, index: int) -> tuple[int, int]:
        """Width and height of an image as it is stored."""
        return self.image(index).size

    def tail(self, index: int) -> tuple[int, bytes]:
        """The size of the content in bytes, and its end: at least its last 4 KiB."""
        content = self.read(index)
        return len(content), content

    def mark(self, index: int) -> tuple[int, bytes]:
        """Size and a 16-byte hash of the content's end, remembered for the next call.

        The end is where a change shows: PNG closes with a checksum of all before it, JPEG is one running bit stream.
        """
        if index not in self._marks:
            size, end = self.tail(index)
            self._marks[index] = size, hashlib.blake2b(end, digest_size=16).digest()
        return self._marks[index]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_marks": {}}


class FileStore(Store):
    """Image files below a folder (names may also be absolute)."""

    def __init__(self, root: str | Path, names: Sequence[str]) -> None:
        super().__init__()
        self.root = str(root)
        self.names = tuple(names)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> str:
        """Where the file is."""
        return os.path.join(self.root, self.names[index])  # noqa: PTH118 (a third of pathlib's time, once an image)

    def read(self, index: int) -> bytes:
        """The bytes of the file."""
        with open(self.path(index), "rb", buffering=0) as file:
            return file.read()

    def size(self, index: int) -> tuple[int, int]:
        """Width and height, from the file's header."""
        with Image.open(self.path(index)) as image:
            return image.size

    def tail(self, index: int) -> tuple[int, bytes]:
        """Size and last 4 KiB of the file."""
        with open(self.path(index), "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - TAIL))
            return size, file.read(TAIL)


class ArrayStore(Store):
    """Images of one array: (N, H, W) grey or (N, H, W, 3) colour, uint8."""

    def __init__(self, images: np.ndarray) -> None:
        super().__init__()
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> bytes:
        """The raw pixels."""
        return self.images[index].tobytes()

    def image(self, index: int) -> Image.Image:
        """The image, grey or RGB."""
        return Image.fromarray(np.ascontiguousarray(self.images[index]))


class WrappedStore(Store):
    """Another library's map-style data set, whose items begin with a PIL image."""

    def __init__(self, items: Any) -> None:
        super().__init__()
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def read(self, index: int) -> bytes:
        """The decoded pixels; how the other library stores them is its own."""
        return self.image(index).tobytes()

    def image(self, index: int) -> Image.Image:
        """The item's image."""
        return self.items[index][0]


def to_rgb(image: Image.Image) -> Image.Image:
    """Return ``image`` as 8-bit RGB: grey repeated over the channels, 16 bits scaled to 8, transparency dropped."""
    if image.mode == "RGB":
        image.load()
        return image
    if image.mode.startswith("I"):
        # Pillow clips wide integers to 255 instead of scaling them, which turns a 16-bit image white.
        values = np.asarray(image)
        wide = image.mode.startswith("I;16") or values.max(initial=0) > 255
        image = Image.fromarray(((values >> 8) if wide else values).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def decode(store: Store, index: int) -> Image.Image:
    """Return an image of ``store`` as RGB. Whatever a damaged file makes the decoders raise comes through."""
    return to_rgb(store.image(index))


def verify(store: Store, index: int) -> None:
    """Decode an image far enough to know that it can be; JPEG at an eighth of the size, which reads every byte."""
    image = store.image(index)
    image.draft("RGB", (1, 1))
    image.load()
