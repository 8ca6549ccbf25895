"""A data source: striped images, made when they are opened."""

from __future__ import annotations

import numpy as np

from ood_nc.data import ImageDataset
from ood_nc.data.stores import ArrayStore
from ood_nc.errors import UserError

CLASSES = ("narrow", "wide")


def open_stripes(name, split, root):
    """Striped images of two widths: stripes/grey."""
    if name != "grey":
        raise UserError(f"No stripes {name!r}: there is grey.")
    targets = np.arange(40) % 2
    phases, columns = np.arange(40)[:, None, None], np.arange(16)[None, None, :]
    waves = np.sin(2 * np.pi * (columns / np.where(targets, 8, 3)[:, None, None] + phases / 40))
    images = np.broadcast_to(np.round(127 + 127 * waves).astype(np.uint8), (40, 16, 16))
    ids = [f"{CLASSES[target]}/{index:02d}" for index, target in enumerate(targets)]
    return ImageDataset(ArrayStore(images), name="stripes/grey", ids=ids, targets=targets, class_names=CLASSES)
