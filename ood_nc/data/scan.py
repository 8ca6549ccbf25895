"""What is wrong with a data set, found before it costs an epoch: broken files, empty classes, copies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from ood_nc.data.dataset import ImageDataset, reason
from ood_nc.data.stores import TAIL, verify
from ood_nc.progress import progress

_CHUNK = 256


@dataclass(frozen=True)
class ScanReport:
    """The state of a data set.

    Attributes:
        name: of the data set.
        n: number of images.
        classes: images of each class by name (or index); empty where there are no labels.
        hidden: hidden entries that were ignored.
        empty_classes: classes without an image.
        broken: id and reason of each image that cannot be decoded.
        duplicates: id of each image whose content came before, and the id of that first one.
        notes: the reader's remarks.
    """

    name: str
    n: int
    classes: dict[str, int]
    hidden: tuple[str, ...] = ()
    empty_classes: tuple[str, ...] = ()
    broken: list[tuple[str, str]] = field(default_factory=list)
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The findings, a line each; none when all is well."""
        found = list(self.notes)
        for name in self.empty_classes:
            found.append(f"class {name!r} has no images; it keeps its place among the classes")
        if self.broken:
            first, why = self.broken[0]
            found.append(f"{len(self.broken)} of {self.n} images cannot be read, the first is {first} ({why})")
        if self.duplicates:
            first, original = self.duplicates[0]
            found.append(f"{len(self.duplicates)} of {self.n} images are copies, the first is {first} of {original}")
        return [f"{self.name}: {line}" for line in found]


def scan(dataset: ImageDataset, *, workers: int = 0, decode: bool = True) -> ScanReport:
    """Look through a data set.

    Args:
        dataset: what to look through.
        workers: threads that decode; the decoders run beside each other.
        decode: decode every image. JPEG is decoded at an eighth of its size, which still reads all of its bytes.
    """
    classes: dict[str, int] = {}
    if dataset.num_classes:
        names = dataset.class_names or [str(index) for index in range(dataset.num_classes)]
        counts = np.bincount(dataset.targets[dataset.targets >= 0], minlength=len(names))
        classes = dict(zip(names, counts.tolist(), strict=True))
    return ScanReport(
        name=dataset.name,
        n=len(dataset),
        classes=classes,
        hidden=dataset.hidden,
        empty_classes=tuple(name for name, count in classes.items() if count == 0),
        broken=_broken(dataset, workers) if decode else [],
        duplicates=_copies(dataset),
        notes=dataset.notes,
    )


def duplicates_between(first: ImageDataset, second: ImageDataset) -> list[str]:
    """The ids of ``second`` whose content is, byte for byte, also in ``first``.

    Two files that show the same pixels in different encodings are not found.
    """
    known: dict[tuple[int, bytes], list[int]] = {}
    for index in range(len(first)):
        known.setdefault(first.mark(index), []).append(index)
    found = []
    for index, name in enumerate(second.ids):
        candidates = known.get(second.mark(index), ())
        if any(same_content(first, candidate, second, index) for candidate in candidates):
            found.append(name)
    return found


def shared_class_names(first: ImageDataset, second: ImageDataset) -> list[str]:
    """The class names of ``second`` that ``first`` has too, whatever their case, hyphens or underscores.

    Only classes that have images count. Bare indices are no names.
    """
    known = {_plain(name) for name in _present(first)}
    return [name for name in _present(second) if _plain(name) in known]


def _broken(dataset: ImageDataset, workers: int) -> list[tuple[str, str]]:
    def check(chunk: Sequence[int]) -> list[tuple[str, str]]:
        return [(dataset.ids[index], why) for index in chunk if (why := _fault(dataset, index))]

    chunks = [range(start, min(start + _CHUNK, len(dataset))) for start in range(0, len(dataset), _CHUNK)]
    broken = []
    with (
        progress(f"checking {dataset.name}", total=len(dataset)) as advance,
        ThreadPoolExecutor(max_workers=max(1, workers)) as pool,
    ):
        for chunk, found in zip(chunks, pool.map(check, chunks), strict=True):
            broken += found
            advance(len(chunk))
    return broken


def _fault(dataset: ImageDataset, index: int) -> str | None:
    try:
        verify(dataset.store, int(dataset.rows[index]))
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes make the decoders raise nearly anything
        return reason(error)
    return None


def _copies(dataset: ImageDataset) -> list[tuple[str, str]]:
    firsts: dict[tuple[int, bytes], list[int]] = {}
    copies = []
    for index, name in enumerate(dataset.ids):
        alike = firsts.setdefault(dataset.mark(index), [])
        original = next((first for first in alike if same_content(dataset, first, dataset, index)), None)
        if original is None:
            alike.append(index)
        else:
            copies.append((name, dataset.ids[original]))
    return copies


def same_content(first: ImageDataset, i: int, second: ImageDataset, j: int) -> bool:
    """Whether two images with equal marks (`ImageDataset.mark`) are equal; that of a small file already covers it."""
    size, _ = first.mark(i)
    return 0 <= size <= TAIL or (size > TAIL and first.content(i) == second.content(j))


def _present(dataset: ImageDataset) -> list[str]:
    if dataset.class_names is None:
        return []
    present = set(dataset.targets.tolist())
    return [name for index, name in enumerate(dataset.class_names) if index in present]


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()
