"""What is wrong with a data set, found before it costs an epoch: broken files, empty classes, copies."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from ood_nc.data.dataset import ImageDataset, look_through
from ood_nc.data.marks import alike
from ood_nc.data.stores import TAIL, verify

_DARK = 0.1


@dataclass(frozen=True)
class ScanReport:
    """The state of a data set.

    Attributes:
        name: of the data set.
        n: number of images.
        classes: images of each class by name (or index); empty where there are no labels.
        empty_classes: classes without an image.
        broken: id and reason of each image that cannot be decoded.
        duplicates: id of each image whose content came before, and the id of that first one.
        notes: the reader's remarks.

    Example:
        >>> from ood_nc.data import open_dataset
        >>> report = scan(open_dataset("bundled/digits-near"))
        >>> report.classes, report.broken
        ({'5': 182, '6': 181}, [])
    """

    name: str
    n: int
    classes: dict[str, int]
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

    Example:
        >>> from ood_nc.data import open_dataset
        >>> report = scan(open_dataset("bundled/digits-near").subset([0, 1, 1]), decode=False)
        >>> report.n, len(report.duplicates)
        (3, 1)
    """
    classes: dict[str, int] = {}
    if dataset.num_classes:
        names = dataset.class_names or [str(index) for index in range(dataset.num_classes)]
        counts = np.bincount(dataset.targets[dataset.targets >= 0], minlength=len(names))
        classes = dict(zip(names, counts.tolist(), strict=True))
    broken, notes = _decoded(dataset, workers) if decode else ([], [])
    return ScanReport(
        name=dataset.name,
        n=len(dataset),
        classes=classes,
        empty_classes=tuple(name for name, count in classes.items() if count == 0),
        broken=broken,
        duplicates=_copies(dataset),
        notes=(*dataset.notes, *notes),
    )


def broken_images(dataset: ImageDataset, *, workers: int = 0) -> list[tuple[str, str]]:
    """Id and reason of each image that cannot be decoded; ``workers`` as of `scan`.

    Example:
        >>> from ood_nc.data import open_dataset
        >>> broken_images(open_dataset("bundled/digits-near"))
        []
    """
    return _decoded(dataset, workers)[0]


def shared_class_names(first: ImageDataset, second: ImageDataset) -> list[str]:
    """The class names of ``second`` that ``first`` has too, whatever their case, hyphens or underscores.

    Only classes that have images count. Bare indices are no names.

    Example:
        >>> from ood_nc.data import open_dataset
        >>> shared_class_names(open_dataset("bundled/digits-id::train"), open_dataset("bundled/digits-id::test"))
        ['0', '1', '2', '3', '4']
    """
    known = {_plain(name) for name in _present(first)}
    return [name for name in _present(second) if _plain(name) in known]


def _decoded(dataset: ImageDataset, workers: int) -> tuple[list[tuple[str, str]], list[str]]:
    """The images that cannot be decoded, and notes on the others."""
    broken: list[tuple[str, str]] = []
    brightest: list[float] = []

    def check(index: int) -> float | None:
        return verify(dataset.store, int(dataset.rows[index]), dataset.pixels)

    for index, outcome in chain.from_iterable(look_through(dataset, check, f"checking {dataset.name}", workers)):
        if isinstance(outcome, str):
            broken.append((dataset.ids[index], outcome))
        elif outcome is not None:
            brightest.append(outcome)
    if not brightest or max(brightest) >= _DARK or dataset.pixels.value_range is not None:
        return broken, []
    used = f"{len(brightest)} images have 16 bits and use {max(brightest):.1%} of them at most"
    return broken, [f"{used}: state the range, e.g. --value-range 0,4095, or they are nearly black"]


def _copies(dataset: ImageDataset) -> list[tuple[str, str]]:
    copies: dict[int, int] = {}
    for group in alike([dataset]):
        firsts: list[int] = []
        for _, index in group:
            original = next((first for first in firsts if same_content(dataset, first, dataset, index)), None)
            if original is None:
                firsts.append(index)
            else:
                copies[index] = original
    return [(dataset.ids[index], dataset.ids[copies[index]]) for index in sorted(copies)]


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
