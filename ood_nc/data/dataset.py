"""The one data set class: a store of images with ids, labels, class names and a transform."""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from torch.utils.data import Dataset

from ood_nc.arrays import as_labels
from ood_nc.config import PixelConfig
from ood_nc.data.names import printables
from ood_nc.data.pixels import DEFAULT, Pixels
from ood_nc.data.stores import Store
from ood_nc.errors import UserError, nearest
from ood_nc.processes import bounded_workers
from ood_nc.progress import progress

Found = TypeVar("Found")
_CHUNK, _TASK = 256, 16


class BrokenImageError(UserError):
    """An image that cannot be read or decoded; the message names it.

    Example:
        >>> str(BrokenImageError("photos: cannot read 3.png (no such file)."))
        'photos: cannot read 3.png (no such file).'
    """

    def __init__(self, message: str) -> None:
        # A loader worker hands the whole traceback on as the message. Its last line is the one the user needs.
        last = message.strip().splitlines()[-1]
        super().__init__(last.rpartition(f"{type(self).__name__}: ")[2])


class ImageDataset(Dataset[Any]):
    """Images with labels, in a fixed order.

    Attributes:
        name: what it is called in notes and errors.
        ids: a stable, path-like id of each sample, as printable text (`ood_nc.data.names.printable`).
        targets: class index of each sample (N,), int64; -1 where there is no label.
        class_names: name of each class, or None where labels are bare indices or absent.
        transform: from the image to what an item holds; None leaves the image.
        pixels: how stored values become 8-bit pixels; those of ``transform`` where it is a model's.
        channels: of the model that the images are for: see `ood_nc.data.pixels.to_channels`.
        passed_over: visible files of the source that are no images.
        notes: remarks of the reader, a line each.

    Example:
        >>> from ood_nc.data.stores import ArrayStore
        >>> images = ArrayStore(np.zeros((2, 8, 8, 3), dtype=np.uint8))
        >>> names = {"ids": ["a", "b"], "class_names": ["cat", "dog"]}
        >>> dataset = ImageDataset(images, name="two", targets=np.array([0, 1]), **names)
        >>> dataset, dataset[1][0].size, dataset[1][1], dataset.subset([1]).ids
        (ImageDataset('two', 2 images, 2 classes), (8, 8), 1, ('b',))
    """

    def __init__(
        self,
        store: Store,
        *,
        name: str,
        ids: Sequence[str],
        targets: np.ndarray,
        class_names: Sequence[str] | None = None,
        passed_over: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> None:
        if not len(store) == len(ids) == len(targets):
            counts = f"{len(store)} images, {len(ids)} ids, {len(targets)} labels"
            raise UserError(f"{name}: {counts}; there must be as many of each.")
        self.store = store
        self.name = name
        self.ids = printables(ids)
        self.targets = _class_indices(targets, name)
        self.class_names = None if class_names is None else tuple(class_names)
        self.passed_over = printables(passed_over)
        self.notes = tuple(notes)
        self.transform: Callable[[Any], Any] | None = None
        self.pixels = DEFAULT
        self.channels = 3
        self.rows = np.arange(len(store))
        self._with_index = False
        self._fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """(image, target), or (image, target, index) after ``with_transform(..., with_index=True)``."""
        image: Any = self.load(index)
        if self.transform is not None:
            image = self.transform(image)
        target = int(self.targets[index])
        return (image, target, index) if self._with_index else (image, target)

    def __repr__(self) -> str:
        return f"ImageDataset({self.name!r}, {len(self)} images, {self.num_classes} classes)"

    @property
    def num_classes(self) -> int:
        """How many classes the labels tell apart, empty ones included."""
        if self.class_names is not None:
            return len(self.class_names)
        return int(self.targets.max(initial=-1)) + 1

    def load(self, index: int) -> Pixels:
        """The decoded image before any transform: RGB, or uint8 (H, W, ``channels``) for other than 1 or 3.

        Raises:
            BrokenImageError: it cannot be read or decoded.
        """
        try:
            return self.store.decode(int(self.rows[index]), self.pixels, self.channels)
        except MemoryError:
            raise
        except Exception as error:  # damaged bytes make the decoders raise nearly anything
            raise BrokenImageError(f"{self.name}: cannot read {self.ids[index]} ({reason(error)}).") from error

    def with_transform(self, transform: Callable[[Any], Any] | None, *, with_index: bool = False) -> ImageDataset:
        """A view with this transform.

        Args:
            transform: applied to the image; a model's own brings its pixel rules and channels along.
            with_index: items carry their position too, so that copies of an image in a batch can be told.
        """
        view = copy.copy(self)
        view.transform = transform
        view.pixels = getattr(transform, "pixels", self.pixels)
        view.channels = getattr(transform, "channels", self.channels)
        view._with_index = with_index
        return view

    def with_pixels(self, pixels: PixelConfig) -> ImageDataset:
        """A view read by these pixel rules."""
        view = copy.copy(self)
        view.pixels = pixels
        return view

    def subset(self, indices: Sequence[int] | np.ndarray, name: str | None = None) -> ImageDataset:
        """A view of these samples, in this order; of a mask (N,) of truths, those that it marks."""
        chosen = positions(indices, len(self), self.name)
        view = copy.copy(self)
        view.name = name or self.name
        view.rows = self.rows[chosen]
        view.targets = self.targets[chosen]
        view.ids = tuple(self.ids[index] for index in chosen)
        view._fingerprint = None
        return view

    def mark(self, index: int) -> tuple[int, bytes]:
        """Size of an image's content and a hash of its end; equal for copies. An unreadable one is marked by its id."""
        try:
            return self.store.mark(int(self.rows[index]))
        except OSError:
            return -1, self.ids[index].encode()

    def size(self, index: int) -> tuple[int, int] | None:
        """Width and height of an image as it is stored; None where it cannot be read."""
        try:
            return self.store.size(int(self.rows[index]))
        except MemoryError:
            raise
        except Exception:  # damaged bytes make the decoders raise nearly anything
            return None

    def content(self, index: int) -> bytes:
        """The bytes of the image's file, or its raw pixels."""
        return self.store.read(int(self.rows[index]))

    def fingerprint(self) -> str:
        """A hash that changes when the data does: 32 hexadecimal digits, the same on every machine.

        It covers the class names, and in order the id, the label, the size and the last 4 KiB of every file (all of it
        for arrays, and for formats without packing such as BMP and TIFF). Dates and places do not count, nor does the
        transform.
        """
        if self._fingerprint is None:
            digest = hashlib.blake2b(repr(self.class_names).encode(), digest_size=16)
            for index, name in enumerate(self.ids):
                size, end = self.mark(index)
                line = f"\n{name}\t{self.targets[index]}\t{size}\t".encode()
                digest.update(line + end)
            self._fingerprint = digest.hexdigest()
        return self._fingerprint


def look_through(
    dataset: ImageDataset, look: Callable[[int], Found], told: str, workers: int
) -> Iterator[list[tuple[int, Found | str]]]:
    """Chunk by chunk, each position with what ``look`` gives for it, or else the `reason` why it gives nothing.

    Args:
        dataset: its positions are gone through in order.
        look: called in threads: the decoders run beside each other.
        told: stands at the progress bar.
        workers: threads.
    """

    def looked(index: int) -> tuple[int, Found | str]:
        """What was found at a position, or why nothing was."""
        try:
            return index, look(index)
        except MemoryError:
            raise
        except Exception as error:  # damaged bytes make the decoders raise nearly anything
            return index, reason(error)

    threads = max(1, bounded_workers(workers))
    with progress(told, total=len(dataset)) as advance, ThreadPoolExecutor(max_workers=threads) as pool:
        for start in range(0, len(dataset), _CHUNK):
            chunk = range(start, min(start + _CHUNK, len(dataset)))
            parts = (chunk[place : place + _TASK] for place in range(0, len(chunk), _TASK))
            yield [pair for part in pool.map(lambda part: [*map(looked, part)], parts) for pair in part]
            advance(len(chunk))


def positions(indices: Sequence[int] | np.ndarray, n: int, name: str) -> np.ndarray:
    """The positions (M,) that indices or a mask (N,) of truths mean among the ``n`` samples of a data set.

    Raises:
        UserError: a mask of another length, or what is neither.
    """
    given = np.asarray(indices)
    if given.dtype == np.bool_ and given.shape == (n,):
        return np.flatnonzero(given)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        what = f"{given.dtype} of shape {given.shape}"
        raise UserError(f"{name}: a subset is of whole numbers (M,), or of a mask ({n},) of truths, got {what}.")
    return given.astype(np.int64)


def reason(error: Exception) -> str:
    """What a decoder or the disk complained about, in a few words on one line."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if type(error).__name__ == "UnidentifiedImageError":
        return "not an image, or its beginning is damaged"
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, UserError) else text[:120]


def _class_indices(targets: Any, name: str) -> np.ndarray:
    """Labels through the package's one door; -1 says that there is none."""
    labels = np.asarray(targets)
    none = labels == -1
    return np.where(none, -1, as_labels(np.where(none, 0, labels), name=f"labels of {name}").cpu().numpy())


def aligned_pair(train: ImageDataset, test: ImageDataset) -> tuple[ImageDataset, ImageDataset]:
    """A train and a test part, the classes of the second numbered as the first does where both name them.

    Example:
        >>> from ood_nc.data import open_dataset
        >>> train, test = aligned_pair(*(open_dataset(f"bundled/digits-id::{part}") for part in ("train", "test")))
        >>> train.class_names == test.class_names
        True
    """
    if train.class_names is not None and test.class_names is not None:
        test = align_classes(test, train.class_names)
    return train, test


def align_classes(dataset: ImageDataset, class_names: Sequence[str]) -> ImageDataset:
    """Number the classes of ``dataset`` as ``class_names`` does, by name.

    Where the data set has no class names its labels are taken as indices into ``class_names``.

    Raises:
        UserError: it has samples of a class that ``class_names`` lacks, or the names tell two classes not apart.

    Example:
        >>> from ood_nc.data import open_dataset
        >>> digits = align_classes(open_dataset("bundled/digits-near"), ["6", "5"])
        >>> digits.class_names, int(digits.targets[0])  # the first is a five
        (('6', '5'), 1)
    """
    names = tuple(class_names)
    if dataset.class_names == names:
        return dataset
    view = copy.copy(dataset)
    view.class_names = names
    view._fingerprint = None
    if dataset.class_names is None:
        if dataset.num_classes > len(names):
            raise UserError(f"{dataset.name} has label {dataset.targets.max()}, but there are {len(names)} classes.")
        return view
    for owner, given in ((dataset.name, dataset.class_names), ("the classes to number by", names)):
        if twice := next((name for name, count in Counter(given).items() if count > 1), None):
            raise UserError(f"{owner}: two classes are called {twice!r}, which no name tells apart: rename one.")
    position = {name: index for index, name in enumerate(names)}
    present = set(dataset.targets.tolist())
    unknown = [name for index, name in enumerate(dataset.class_names) if index in present and name not in position]
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        hint = nearest(unknown[0], names) or f" Known: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}."
        raise UserError(f"{dataset.name} has classes that are not known: {', '.join(unknown[:5])}{more}.{hint}")
    table = np.array([position.get(name, -1) for name in dataset.class_names] + [-1], dtype=np.int64)
    view.targets = table[dataset.targets]
    return view
