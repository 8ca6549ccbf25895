"""Image lists: a text file with a path and a class index on every line, as OpenOOD has them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ood_nc.data.dataset import ImageDataset
from ood_nc.data.stores import FileStore
from ood_nc.errors import UserError

LIST_SUFFIXES = (".txt", ".lst")
_LABELLED = re.compile(r"(.*?)[ \t]+(-?[0-9]{1,18})", re.DOTALL)
_LONGEST = 1 << 16


class Line(NamedTuple):
    """A line of a list: where it stands, the path on it, and its label, None where it has none."""

    number: int
    name: str
    label: int | None


def read_list(path: str | Path, images: str | Path) -> Iterator[Line]:
    """The one reader of lists: a path a line, then spaces or tabs and a class index, or no index.

    UTF-8 with or without a byte order mark, any line end; blank lines are passed over. Spaces inside a path are its
    own, so are bytes that are no UTF-8. A path with backslashes that is not there is read with slashes.

    Args:
        path: of the list.
        images: folder that relative paths start at.

    Raises:
        UserError: it cannot be read, or is no text.
    """
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as lines:
            number = 0
            while line := lines.readline(_LONGEST):
                number += 1
                if len(line) == _LONGEST or "\0" in line or line.startswith("\udcff\udcfe"):
                    raise UserError(f"Cannot read the image list {path}: it is no text in UTF-8 (line {number}).")
                text = line.strip(" \t\n")
                if text:
                    found = _LABELLED.fullmatch(text)
                    name, label = (found[1], int(found[2])) if found else (text, None)
                    yield Line(number, _with_slashes(name, images), label)
    except OSError as error:
        raise UserError(f"Cannot read the image list {path}: {error.strerror}.") from error


def open_imglist(path: Path, images: Path, name: str) -> ImageDataset:
    """Read a list of ``path label`` lines; paths are relative to the folder ``images``, label -1 means none.

    Labels are indices that only the list's author can name, so there are no class names.

    Raises:
        UserError: a line cannot be read or has no label, the list is empty, or its first image is not there.
    """
    names, labels = [], []
    for number, file, label in read_list(path, images):
        if label is None:
            raise UserError(f"{path}, line {number}: expected `path label`, got {file[:80]!r}.")
        names.append(file)
        labels.append(label)
    if not names:
        raise UserError(f"No images in {path}: expected a line `path label` for each.")
    if not (images / names[0]).is_file():
        slashes = " (nor with slashes for its backslashes)" if "\\" in names[0] else ""
        raise UserError(
            f"No file {images / names[0]}{slashes} (first line of {path}): name the folder, {path.name}::FOLDER."
        )
    return ImageDataset(FileStore(images, names), name=name, ids=names, targets=np.array(labels, dtype=np.int64))


def _with_slashes(name: str, images: str | Path) -> str:
    if "\\" not in name or os.path.lexists(os.path.join(images, name)):  # noqa: PTH118 (once a line)
        return name
    slashed = name.replace("\\", "/")
    return slashed if os.path.lexists(os.path.join(images, slashed)) else name  # noqa: PTH118
