"""Images of any number of sources, one after another, whatever their number: nothing but a folder's listing is kept."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from ood_nc.data.archives import Archive, is_archive, open_archive
from ood_nc.data.dataset import reason
from ood_nc.data.folders import is_hidden, walk
from ood_nc.data.imglists import LIST_SUFFIXES, read_list
from ood_nc.data.layout import suffix_of
from ood_nc.data.names import printable, printables
from ood_nc.data.pixels import DEFAULT, image_suffixes
from ood_nc.data.registry import SOURCES
from ood_nc.data.sources import open_dataset
from ood_nc.data.stores import FileStore, Store
from ood_nc.errors import UserError, nearest
from ood_nc.files import expanded
from ood_nc.processes import bounded_workers

Transform = Callable[[Any], torch.Tensor]


@dataclass(frozen=True)
class StreamBatch:
    """Consecutive images of a stream.

    Attributes:
        ids: of all its images, in order.
        images: the readable ones (B, C, H, W), or None when none is.
        errors: position and reason of each image that cannot be read.
        stamps: of each image what changes when its file is replaced (`Store.stamp`).

    Example:
        >>> batch = StreamBatch(ids=("a.png", "b.png"), images=torch.zeros(1, 3, 8, 8), errors=((1, "not an image"),))
        >>> len(batch), len(batch.images)
        (2, 1)
    """

    ids: list[str]
    images: torch.Tensor | None
    errors: list[tuple[int, str]]
    stamps: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.ids)


class _Entry(NamedTuple):
    """An image that is named but not yet read, or what stands in its place and why it cannot be.

    It goes to the process that reads it, so a store of many images is named by its source.
    """

    id: str
    store: Store | str | None
    position: int = 0
    why: str = ""


Entries = Callable[[], Iterator[_Entry]]
"""Gives the images of one source anew at each call, in whichever process."""


class ImageStream(Iterable[StreamBatch]):
    """The images of files, folders, archives, lists and every other source, in a fixed order.

    A folder is walked as it is read, folder by folder in the order of the names, by the reader that data sets have
    (`ood_nc.data.folders`); so is a list (`ood_nc.data.imglists`), whose class indices are ignored and whose relative
    paths start at its folder. An archive is indexed and read in place. What ends in no image suffix is opened as
    `open_dataset` does. An image that cannot be read, and any other visible file, is reported in its batch with the
    reason and costs no other; so is one that is named among other sources and not there.

    Args:
        sources: paths and names of data sets.
        transform: from an image to a tensor (C, H, W); a model's own brings its pixel rules along, else RGB is given.
        batch_size: images a batch.
        skip: images to pass over at the start, without reading them.
        without: files and folders that are no part of the sources, although they lie in a folder that is: what the
            caller writes there.

    Raises:
        UserError: a source is not there, or cannot be opened.

    Example:
        >>> stream = ImageStream(["bundled/digits-near"], lambda image: torch.zeros(3, 8, 8), batch_size=100)
        >>> [len(batch) for batch in stream]
        [100, 100, 100, 63]
    """

    def __init__(
        self,
        sources: Sequence[str],
        transform: Transform,
        *,
        batch_size: int = 64,
        skip: int = 0,
        without: Sequence[Path] = (),
    ) -> None:
        self.sources = [str(source) for source in sources]
        self.transform = transform
        self.pixels = getattr(transform, "pixels", DEFAULT)
        self.channels = getattr(transform, "channels", 3)
        self.batch_size = batch_size
        self.skip = skip
        self.without = [path.resolve() for path in without]
        # Opened once, here: workers share the index, and a wrong path is known before any work is done.
        self._stores: dict[str, Store] = {}
        self._opened = _open_all(self.sources, self._stores)

    def __iter__(self) -> Iterator[StreamBatch]:
        return iter(self.loader())

    def stamped(self) -> Iterator[tuple[str, str]]:
        """The id and the stamp of every image, in order, without reading images."""
        return ((printable(entry.id), self._stamp(entry)) for entry in self._entries())

    def loader(self, workers: int = 0) -> DataLoader[Any]:
        """The batches in order, read ahead by so many processes.

        Folders are walked in this one alone: files may come and go meanwhile, and two walks would differ.
        """
        workers = bounded_workers(workers)
        return DataLoader(
            _Reader(self._read),
            batch_size=None,
            sampler=_Walk(self._batches),
            num_workers=workers,
            prefetch_factor=2 if workers else None,
            generator=torch.Generator(),  # the global one is the caller's
        )

    def _batches(self) -> Iterator[list[_Entry]]:
        entries = itertools.islice(self._entries(), self.skip, None)
        while batch := list(itertools.islice(entries, self.batch_size)):
            yield batch

    def _entries(self) -> Iterator[_Entry]:
        for source in self.sources:
            for entry in self._opened[source]():
                if not (entry.store is None and self._is_left_out(entry.id)):
                    yield entry

    def _is_left_out(self, name: str) -> bool:
        if not any(path.name in name for path in self.without):  # to resolve every path takes its time
            return False
        whole = Path(name).resolve()
        return any(whole.is_relative_to(path) for path in self.without)

    def _store(self, entry: _Entry) -> Store | None:
        return self._stores[entry.store] if isinstance(entry.store, str) else entry.store

    def _stamp(self, entry: _Entry) -> str:
        store = self._store(entry)
        return "" if store is None else store.stamp(entry.position)

    def _read(self, batch: Sequence[_Entry]) -> StreamBatch:
        images, errors = [], []
        # Before they are read: replaced meanwhile, they are seen to be.
        stamps = [self._stamp(entry) for entry in batch]
        for position, entry in enumerate(batch):
            if (store := self._store(entry)) is None:
                errors.append((position, entry.why))
                continue
            try:
                images.append(self.transform(store.decode(entry.position, self.pixels, self.channels)))
            except MemoryError:
                raise
            except Exception as error:  # damaged bytes make the decoders raise nearly anything
                errors.append((position, reason(error)))
        return StreamBatch(
            list(printables(entry.id for entry in batch)), torch.stack(images) if images else None, errors, stamps
        )


class _Reader(Dataset[StreamBatch]):
    """Reads the batches that it is given in the place of an index."""

    def __init__(self, read: Callable[[Sequence[_Entry]], StreamBatch]) -> None:
        self._read = read

    def __getitem__(self, batch: Any) -> StreamBatch:
        return self._read(batch)


class _Walk:
    """The batches to read, walked anew at each pass."""

    def __init__(self, batches: Callable[[], Iterator[list[_Entry]]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[list[_Entry]]:
        return self._batches()


def _open_all(sources: Sequence[str], stores: dict[str, Store]) -> dict[str, Entries]:
    opened: dict[str, Entries] = {}
    errors: list[UserError] = []
    for source in sources:
        try:
            opened[source] = _open(source, stores)
        except UserError as error:
            if Path(source).exists() or suffix_of(source) not in image_suffixes():
                raise
            errors.append(error)  # an image that is named and not there, among other sources
            opened[source] = partial(iter, [_unreadable(source, str(error))])
    if errors and len(errors) == len(sources):
        raise errors[0]
    return opened


def _open(source: str, stores: dict[str, Store]) -> Entries:
    path = expanded(source)
    if path.is_dir():
        return partial(_folder, str(path))
    if not path.is_file():
        if "::" in source or source.partition("/")[0] in SOURCES:
            return _data_set(source, stores)
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = nearest(path.name, beside) or " Give image files, folders, archives or lists."
        raise UserError(f"No image, folder or archive at {source}.{hint}")
    if is_archive(path):
        return _archive(source, open_archive(path), stores)
    if path.suffix.lower() in LIST_SUFFIXES:
        return partial(_list, str(path))
    if path.suffix.lower() in (".npz", ".npy"):
        return _data_set(source, stores)
    return partial(iter, [_file(str(path))])


def _folder(path: str) -> Iterator[_Entry]:
    root = path.rstrip("/") or "/"
    for below, is_folder, _, error in walk(root):
        whole = os.path.join(root, below) if below else root  # noqa: PTH118 (once an image)
        if error is not None:
            yield _unreadable(whole, f"the folder cannot be read: {error.strerror}")
        elif not is_folder and not is_hidden(below.rpartition("/")[2]):
            yield _file(whole) if suffix_of(below) in image_suffixes() else _passed_over(whole)


def _list(path: str) -> Iterator[_Entry]:
    folder = Path(path).parent
    try:
        for line in read_list(path, folder):
            yield _Entry(line.name, FileStore(folder, (line.name,)))
    except UserError as error:
        yield _unreadable(path, str(error))


def _members(source: str, names: Sequence[str], rows: Iterable[int], passed_over: Sequence[str]) -> Iterator[_Entry]:
    """Images of an archive, or of any other source that is opened as a whole, then what it holds besides."""
    for name, row in zip(names, rows, strict=True):
        yield _Entry(f"{source}::{name}", source, int(row))
    for name in passed_over:
        yield _passed_over(f"{source}::{name}")


def _file(path: str) -> _Entry:
    return _Entry(path, FileStore("", (path,)))


def _passed_over(name: str) -> _Entry:
    return _unreadable(name, f"passed over: not an image ({suffix_of(name) or 'no suffix'})")


def _unreadable(name: str, why: str) -> _Entry:
    return _Entry(name, None, why=" ".join(why.split()))


def _archive(source: str, archive: Archive, stores: dict[str, Store]) -> Entries:
    visible = [name for name in archive.members if not any(map(is_hidden, name.split("/")))]
    names = [name for name in visible if suffix_of(name) in image_suffixes()]
    others = [name for name in visible if suffix_of(name) not in image_suffixes()]
    stores[source] = archive.store(tuple(names))
    return partial(_members, source, names, range(len(names)), others)


def _data_set(source: str, stores: dict[str, Store]) -> Entries:
    dataset = open_dataset(source)
    stores[source] = dataset.store
    return partial(_members, source, dataset.ids, dataset.rows, dataset.passed_over)
