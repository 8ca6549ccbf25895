"""Decoded images, in memory or in one memory-mapped file, so that no epoch but the first decodes them.

The file holds the pixels of all images, one after another, then a table of their heights and widths (N, 2) as int64,
the number of images, and a SHA-256 over all of that. Its name is a hash of the images (`ImageDataset.fingerprint`), of
the pixel rules and of the version of Pillow, so what has changed is decoded anew; a damaged file is made again.
"""

from __future__ import annotations

import copy
import hashlib
import io
import itertools
import logging
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
from PIL import Image

from ood_nc.config import PixelConfig
from ood_nc.data.dataset import ImageDataset, look_through
from ood_nc.data.pixels import DEFAULT, Pixels
from ood_nc.data.stores import ArrayStore, Store
from ood_nc.files import atomic_path, expanded, write_lock

logger = logging.getLogger(__name__)

MEMORY = "memory"
_DIGEST = 32


class CachedStore(Store):
    """Another store, some of whose images are kept as the RGB that a rule makes of them.

    Everything else is asked of that store: other rules, other numbers of channels, images that are not kept, and those
    that could not be decoded.

    Args:
        origin: the other store.
        rows: positions of the images that are kept.
        pixels: the rules they were decoded by.
        kept: a file of this module, or the content of one.
    """

    def __init__(self, origin: Store, rows: np.ndarray, pixels: PixelConfig, kept: Path | memoryview) -> None:
        super().__init__()
        self.origin, self.pixels, self._kept = origin, pixels, kept
        self._places = np.full(len(origin), -1)
        self._places[rows] = np.arange(len(rows))
        self._map()

    def _map(self) -> None:
        self._values, self._shapes = _parts(self._kept)
        self._ends = np.cumsum(3 * self._shapes.prod(1))

    def __getstate__(self) -> dict[str, object]:
        state = super().__getstate__()
        if isinstance(self._kept, Path):
            return {**state, "_values": None}  # a process that gets it maps the file itself
        return {**state, "_kept": bytes(self._kept), "_values": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._map()

    def __len__(self) -> int:
        return len(self.origin)

    def read(self, index: int) -> bytes:
        """What is stored, not what is kept."""
        return self.origin.read(index)

    def image(self, index: int) -> Pixels:
        """The image as it is stored."""
        return self.origin.image(index)

    def size(self, index: int) -> tuple[int, int]:
        """Width and height as it is stored."""
        return self.origin.size(index)

    def tail(self, index: int) -> tuple[int, bytes]:
        """Size and end of what is stored."""
        return self.origin.tail(index)

    def decode(self, index: int, pixels: PixelConfig = DEFAULT, channels: int = 3) -> Pixels:
        """The image that is kept, or what the other store decodes."""
        place = int(self._places[index])
        if place < 0 or channels not in (1, 3) or pixels != self.pixels or not self._shapes[place].all():
            return self.origin.decode(index, pixels, channels)
        height, width = self._shapes[place].tolist()
        end = int(self._ends[place])
        return Image.fromarray(self._values[end - 3 * height * width : end].reshape(height, width, 3))


def cached(dataset: ImageDataset, where: str, *, workers: int = 0) -> ImageDataset:
    """A view whose images are decoded once, by the rules it has now. Arrays are decoded already, and left as they are.

    A folder can serve any number of runs and processes at once: the first makes the file and the others wait for it.

    Args:
        dataset: the images; what they become, and any error, is the same with and without.
        where: ``memory`` (of each process by itself), or the folder of the file. Three bytes a pixel either way.
        workers: threads that decode.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    if isinstance(dataset.store, ArrayStore):
        return dataset
    if where == MEMORY:
        content = io.BytesIO()
        _write(content, dataset, workers)
        kept: Path | memoryview = content.getbuffer()
    else:
        kept = expanded(where).absolute() / f"{_key(dataset)}.pixels"
        if not _is_whole(kept):
            with write_lock(kept, wait=True):
                if not _is_whole(kept):  # else another process has made it meanwhile
                    with atomic_path(kept) as temporary, open(temporary, "w+b") as file:
                        _write(file, dataset, workers)
    view = copy.copy(dataset)
    view.store = CachedStore(dataset.store, dataset.rows, dataset.pixels, kept)
    return view


def _key(dataset: ImageDataset) -> str:
    parts = (dataset.fingerprint(), dataset.pixels.model_dump_json(), PIL.__version__)
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def _write(file: BinaryIO, dataset: ImageDataset, workers: int) -> None:
    digest, shapes, plain = hashlib.sha256(), [], dataset.with_transform(None)
    chunks = look_through(dataset, lambda index: np.asarray(plain.load(index)), f"decoding {dataset.name}", workers)
    for _, found in itertools.chain.from_iterable(chunks):
        values = np.empty((0, 0, 3), dtype=np.uint8) if isinstance(found, str) else found  # what cannot be read
        shapes.append(values.shape[:2])
        digest.update(values.data)
        file.write(values.data)
    end = np.array(shapes, dtype="<i8").tobytes() + len(shapes).to_bytes(8, "little")
    digest.update(end)
    file.write(end + digest.digest())


def _is_whole(path: Path) -> bool:
    """Whether the file is there as it was written; one that is there and damaged is told of."""
    if not path.exists():
        return False
    digest = hashlib.sha256()
    size = path.stat().st_size - _DIGEST
    with open(path, "rb") as file:
        while size > 0 and (chunk := file.read(min(1 << 22, size))):
            digest.update(chunk)
            size -= len(chunk)
        whole = file.read() == digest.digest()
    if not whole:
        logger.warning("%s is damaged: the images are decoded again.", path)
    return whole


def _parts(kept: Path | memoryview | bytes) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (M,) and shapes (N, 2), without a copy."""
    whole = np.memmap(kept, np.uint8, "r") if isinstance(kept, Path) else np.frombuffer(kept, np.uint8)
    body = whole[:-_DIGEST]
    table = 16 * int(body[-8:].view("<i8")[0])
    return body[: -8 - table], body[-8 - table : -8].copy().view("<i8").reshape(-1, 2)
