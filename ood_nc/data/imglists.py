"""Image lists: a text file with a path and a class index on every line, as OpenOOD has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ood_nc.data.dataset import ImageDataset
from ood_nc.data.stores import FileStore
from ood_nc.errors import UserError


def open_imglist(path: Path, images: Path, name: str) -> ImageDataset:
    """Read a list of ``path label`` lines; paths are relative to the folder ``images``, label -1 means none.

    Labels are indices that only the list's author can name, so there are no class names.

    Raises:
        UserError: a line cannot be read, the list is empty, or its first image is not there.
    """
    names, labels = [], []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read the image list {path}: {error}.") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            file, label = line.rsplit(maxsplit=1)
            labels.append(int(label))
        except ValueError:
            raise UserError(f"{path}, line {number}: expected `path label`, got {line.strip()[:80]!r}.") from None
        names.append(file.strip())
    if not names:
        raise UserError(f"No images in {path}: expected a line `path label` for each.")
    if min(labels) < -1:
        raise UserError(f"{path}: label {min(labels)} is no class index; -1 stands for none.")
    if not (images / names[0]).is_file():
        raise UserError(f"No file {images / names[0]} (first line of {path}): name the folder, {path.name}::FOLDER.")
    return ImageDataset(FileStore(images, names), name=name, ids=names, targets=np.array(labels, dtype=np.int64))
