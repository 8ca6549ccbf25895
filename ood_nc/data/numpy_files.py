"""Images and labels in NumPy files."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ood_nc.data.dataset import ImageDataset
from ood_nc.data.stores import ArrayStore
from ood_nc.errors import UserError

_PLAIN = (("x", "y"), ("images", "labels"), ("data", "labels"), ("x", "labels"))
_SPLIT = (("x_{}", "y_{}"), ("{}_images", "{}_labels"), ("images_{}", "labels_{}"), ("{}_x", "{}_y"))
_EXPECTED = "x_train, y_train, x_test, y_test, or x, y, or images, labels"


def open_numpy(path: Path, split: str, name: str) -> ImageDataset:
    """Read an .npz of images and labels, or an .npy of images alone; never unpickles.

    Images are uint8, (N, H, W), (N, H, W, 1 or 3) or (N, 1 or 3, H, W); labels are class indices (N,) or (N, 1).
    Without labels the samples are unlabelled.

    Raises:
        UserError: damaged, no such split, or arrays of another kind.
    """
    try:
        if path.suffix == ".npy":
            images, labels = np.load(path, mmap_mode="r", allow_pickle=False), None
        else:
            with np.load(path, allow_pickle=False) as arrays:
                x, y = _keys(arrays.files, split, path)
                images, labels = arrays[x], arrays[y] if y else None
    except UserError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as a NumPy file ({' '.join(str(error).split())[:100]}).") from error
    images = _channels_last(images, path)
    targets = np.full(len(images), -1, dtype=np.int64) if labels is None else _labels(labels, path)
    prefix = f"{split}/" if split else ""
    return ImageDataset(
        ArrayStore(images), name=name, ids=[f"{prefix}{i:06d}" for i in range(len(images))], targets=targets
    )


def _keys(files: Iterable[str], split: str, path: Path) -> tuple[str, str | None]:
    there = set(files)
    pairs = [(x.format(split), y.format(split)) for x, y in _SPLIT] if split else list(_PLAIN)
    for x, y in pairs:
        if x in there:
            return x, y if y in there else None
    splits = sorted({name.removeprefix("x_") for name in there if name.startswith("x_")})
    choose = f" Choose a split: {', '.join(f'{path.name}::{found}' for found in splits)}." if splits else ""
    wanted = f"a split {split!r}" if split else "images"
    raise UserError(
        f"{path} has no arrays for {wanted} (it holds {', '.join(sorted(there))}; expected {_EXPECTED}).{choose}"
    )


def _channels_last(images: np.ndarray, path: Path) -> np.ndarray:
    if images.dtype != np.uint8:
        raise UserError(f"{path}: images must be uint8 (0 to 255), got {images.dtype}.")
    if images.ndim == 4 and images.shape[-1] not in (1, 3) and images.shape[1] in (1, 3):
        images = np.moveaxis(images, 1, -1)
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    if images.ndim == 3 or (images.ndim == 4 and images.shape[-1] == 3):
        return images
    raise UserError(f"{path}: images must have shape (N, H, W) or (N, H, W, 3), got {images.shape}.")


def _labels(labels: np.ndarray, path: Path) -> np.ndarray:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise UserError(f"{path}: labels must be whole numbers of shape (N,), got {labels.dtype} {labels.shape}.")
    return labels.astype(np.int64)
