"""Data that ships with scikit-learn: its 8 x 8 digits, and textures cut from its two photographs. Nothing is random.

The digits are divided by class, so that the three questions asked of a model never share a class or an image:

- ``digits-id`` (0 to 4): what the model is trained on and tested with;
- ``digits-near`` (5, 6): OOD of the same kind, 5 being drawn like 3 and 6 like 0;
- ``digits-transfer`` (7, 8, 9): classes that the model has never seen, to be told apart from its features.

The file lists the digits writer by writer, so the first part of each class trains and the rest tests: the test digits
are those of other people.

The photographs are cut into tiles of 16 x 16 pixels, in grey and reduced to 8 x 8, each stretched to the full range of
brightness as the digits are: neither size nor colour nor contrast gives a tile away. Bands of 32 rows go in turn to the
three sets, so no pixel is in two of them: ``textures`` (far OOD) and ``textures-transfer`` train and test, where the
class is the quarter of the photograph, left to right, that a tile comes from.
"""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image

from ood_nc.data.dataset import ImageDataset
from ood_nc.data.stores import ArrayStore
from ood_nc.errors import UserError, nearest

BUNDLED = {
    "digits-id::train": "digits 0 to 4, the first two thirds of each class",
    "digits-id::test": "digits 0 to 4, the last third of each class: other writers",
    "digits-near": "digits 5 and 6, near OOD",
    "digits-transfer::train": "digits 7, 8 and 9, the first third of each class",
    "digits-transfer::test": "digits 7, 8 and 9, the other two thirds: other writers",
    "textures": "grey tiles of two photographs, far OOD",
    "textures-transfer::train": "tiles labelled with the quarter of the photograph they come from",
    "textures-transfer::test": "the same quarters, from other bands of the photographs",
}
_DIGITS = {"digits-id": (0, 1, 2, 3, 4), "digits-near": (5, 6), "digits-transfer": (7, 8, 9)}
_TRAIN_SHARE = {"digits-id": 2 / 3, "digits-transfer": 1 / 3}
_TILE, _BAND, _QUARTERS, _LEAST_RANGE = 16, 32, 4, 16
_BAND_ORDER = ("textures-transfer::train", "textures-transfer::test", "textures-transfer::train", "textures")


def open_bundled(name: str, split: str) -> ImageDataset:
    """One of the sets in ``BUNDLED``.

    Raises:
        UserError: no such set or split.
    """
    key = f"{name}::{split}" if split else name
    if key not in BUNDLED:
        splits = [known for known in BUNDLED if known.startswith(f"{name}::")]
        hint = f" Choose {' or '.join('bundled/' + known for known in splits)}." if splits else nearest(key, BUNDLED)
        raise UserError(f"No bundled set {key!r}.{hint or ' There are ' + ', '.join(BUNDLED) + '.'}")
    images, targets, class_names = _digits(name, split) if name in _DIGITS else _textures(key)
    ids = [f"{key.replace('::', '/')}/{class_names[target]}/{index:04d}" for index, target in enumerate(targets)]
    return ImageDataset(ArrayStore(images), name=f"bundled/{key}", ids=ids, targets=targets, class_names=class_names)


def _digits(name: str, split: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    chosen = []
    for digit in _DIGITS[name]:
        members = np.flatnonzero(digits.target == digit)
        first = round(len(members) * _TRAIN_SHARE.get(name, 1))
        chosen.append(members[first:] if split == "test" else members[:first])
    rows = np.sort(np.concatenate(chosen))
    position = np.searchsorted(_DIGITS[name], digits.target[rows])
    return images[rows], position.astype(np.int64), [str(digit) for digit in _DIGITS[name]]


@functools.lru_cache(maxsize=1)
def _photographs() -> tuple[tuple[str, np.ndarray], ...]:
    from sklearn.datasets import load_sample_image

    return tuple(
        (name, np.asarray(Image.fromarray(load_sample_image(f"{name}.jpg")).convert("L")))
        for name in ("china", "flower")
    )


def _textures(key: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    # Training tiles overlap by half inside their own band, which gives four times as many; the others do not.
    step = _TILE // 2 if key.endswith("::train") else _TILE
    tiles: list[np.ndarray] = []
    targets: list[int] = []
    class_names: list[str] = []
    for photograph, pixels in _photographs():
        width = pixels.shape[1] // _QUARTERS
        for quarter in range(_QUARTERS):
            for band in range(pixels.shape[0] // _BAND):
                if _BAND_ORDER[band % len(_BAND_ORDER)] != key:
                    continue
                area = pixels[band * _BAND : (band + 1) * _BAND, quarter * width : (quarter + 1) * width]
                found = _tiles(area, step)
                tiles += found
                targets += [len(class_names)] * len(found)
            class_names.append(f"{photograph}-{quarter + 1}")
    return np.stack(tiles), np.array(targets, dtype=np.int64), class_names


def _tiles(area: np.ndarray, step: int) -> list[np.ndarray]:
    """The reduced, stretched tiles of an area; nearly flat ones (sky, blur) hold no texture and are left out."""
    found = []
    for top in range(0, area.shape[0] - _TILE + 1, step):
        for left in range(0, area.shape[1] - _TILE + 1, step):
            tile = area[top : top + _TILE, left : left + _TILE].reshape(8, 2, 8, 2).mean(axis=(1, 3))
            low, high = tile.min(), tile.max()
            if high - low >= _LEAST_RANGE:
                found.append(np.round((tile - low) * (255 / (high - low))).astype(np.uint8))
    return found
