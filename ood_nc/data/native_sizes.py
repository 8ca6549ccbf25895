"""The sizes that images have before the transform: a cue that a detector can read where two sets differ in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ood_nc.data.dataset import ImageDataset
from ood_nc.scores import auroc

_TELLING = 0.9
_MOST = 512


@dataclass(frozen=True)
class NativeSizes:
    """Sizes of the images of a set as they are stored.

    Attributes:
        widths: in pixels (n,), int64.
        heights: in pixels (n,), int64.

    Example:
        >>> print(NativeSizes(widths=np.array([32, 64, 64]), heights=np.array([32, 48, 48])))
        64 x 48
    """

    widths: np.ndarray
    heights: np.ndarray

    def __len__(self) -> int:
        return len(self.widths)

    def __str__(self) -> str:
        return f"{int(np.median(self.widths))} x {int(np.median(self.heights))}"


def native_sizes(dataset: ImageDataset, most: int = _MOST) -> NativeSizes:
    """Read the sizes of at most ``most`` images, evenly spread over the set; of files only the headers.

    Images that cannot be read are left out.

    Example:
        >>> from ood_nc.data import native_sizes, open_dataset
        >>> print(native_sizes(open_dataset("bundled/textures")))
        8 x 8
    """
    places = np.unique(np.linspace(0, len(dataset) - 1, min(most, len(dataset))).astype(np.int64))
    sizes = [size for place in places if (size := dataset.size(int(place))) is not None]
    table = np.array(sizes, dtype=np.int64).reshape(-1, 2)
    return NativeSizes(table[:, 0], table[:, 1])


def size_cue(id_sizes: NativeSizes, ood_sizes: NativeSizes) -> str | None:
    """A note where the native size alone tells OOD from ID, else None.

    The cue is read as a score would be: where the AUROC of the number of pixels, or of the aspect ratio, is at least
    0.9 in either direction, a detector may be reading traces of the resizing instead of what the images show.

    Example:
        >>> import numpy as np
        >>> from ood_nc.data.native_sizes import NativeSizes, size_cue
        >>> small, large = (NativeSizes(np.full(9, side), np.full(9, side)) for side in (32, 224))
        >>> size_cue(small, large)
        'native sizes alone tell it from ID (AUROC 1.00; ID 32 x 32, here 224 x 224): bring both to one size'
    """
    if not len(id_sizes) or not len(ood_sizes):
        return None
    cues = (lambda s: np.log(s.widths) + np.log(s.heights), lambda s: np.log(s.widths) - np.log(s.heights))
    values = [auroc(cue(id_sizes), cue(ood_sizes)) for cue in cues]
    strength = max(max(value, 1 - value) for value in values)
    if strength < _TELLING:
        return None
    sizes = f"AUROC {strength:.2f}; ID {id_sizes}, here {ood_sizes}"
    return f"native sizes alone tell it from ID ({sizes}): bring both to one size"
