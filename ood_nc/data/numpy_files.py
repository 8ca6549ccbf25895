"""Images and labels in NumPy files."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ood_nc.data.archives import most_inflated
from ood_nc.data.dataset import ImageDataset
from ood_nc.data.stores import ArrayStore
from ood_nc.errors import UserError

_PLAIN = (("x", "y"), ("images", "labels"), ("data", "labels"), ("x", "labels"))
_SPLIT = (("x_{}", "y_{}"), ("{}_images", "{}_labels"), ("images_{}", "labels_{}"), ("{}_x", "{}_y"))
_EXPECTED = "x_train, y_train, x_test, y_test, or x, y, or images, labels"


def open_numpy(path: Path, split: str, name: str, max_inflated: int | None = None) -> ImageDataset:
    """Read an .npz of images and labels, or an .npy of images alone; never unpickles.

    Images are (N, H, W), (N, H, W, C) or (N, C, H, W) of any real type: `ood_nc.data.pixels` says what becomes of their
    values. Channels come last, unless the second axis is 1 or 3 and the last is not, or is the smaller of the two.
    Labels are class indices (N,) or (N, 1). Without labels the samples are unlabelled.

    Args:
        path: of the file.
        split: the part of an .npz, or "".
        name: of the data set.
        max_inflated: see `ood_nc.data.archives.open_archive`.

    Raises:
        UserError: damaged, no such split, larger than allowed, or arrays of another kind.
    """
    try:
        if path.suffix.lower() == ".npy":
            images, labels = np.load(path, mmap_mode="r", allow_pickle=False), None
        else:
            with np.load(path, allow_pickle=False) as arrays:
                x, y = _keys(arrays.files, split, path)
                for key in (x, *([y] if y else [])):
                    check_array_size(path, key, max_inflated)
                images, labels = arrays[x], arrays[y] if y else None
    except (UserError, MemoryError):
        raise
    except Exception as error:  # damaged bytes make the readers raise nearly anything
        raise UserError(f"{path} cannot be read as a NumPy file ({' '.join(str(error).split())[:100]}).") from error
    images = _channels_last(images, path)
    targets = np.full(len(images), -1, dtype=np.int64) if labels is None else _labels(labels, path)
    prefix = f"{split}/" if split else ""
    return ImageDataset(
        ArrayStore(images), name=name, ids=[f"{prefix}{i:06d}" for i in range(len(images))], targets=targets
    )


def check_array_size(path: Path, key: str, max_inflated: int | None = None) -> None:
    """Refuse an array that inflates to more than allowed, or claims to be larger than its member."""
    with zipfile.ZipFile(path) as file:
        info = file.getinfo(f"{key}.npy")
        if info.file_size > most_inflated(info.compress_size, max_inflated):
            raise UserError(
                f"{path}: {key} would inflate from {info.compress_size} to {info.file_size} bytes: raise "
                "data.max_inflated, if you trust it."
            )
        with file.open(info) as member:
            version = np.lib.format.read_magic(member)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = header(member)
    if math.prod(shape) * dtype.itemsize > info.file_size:
        raise ValueError(f"{key} claims the shape {shape}, more than it holds")


def _keys(files: Iterable[str], split: str, path: Path) -> tuple[str, str | None]:
    there = set(files)
    pairs = [(x.format(split), y.format(split)) for x, y in _SPLIT] if split else list(_PLAIN)
    for x, y in sorted(pairs, key=lambda pair: pair[1] not in there):  # images with labels before those without
        if x in there:
            return x, y if y in there else None
    splits = sorted({name.removeprefix("x_") for name in there if name.startswith("x_")})
    choose = f" Choose a split: {', '.join(f'{path.name}::{found}' for found in splits)}." if splits else ""
    wanted = f"a split {split!r}" if split else "images"
    raise UserError(
        f"{path} has no arrays for {wanted} (it holds {', '.join(sorted(there))}; expected {_EXPECTED}).{choose}"
    )


def _channels_last(images: np.ndarray, path: Path) -> np.ndarray:
    if images.dtype.kind not in "biuf":
        raise UserError(f"{path}: images must be real numbers, got {images.dtype}.")
    if images.ndim not in (3, 4) or (len(images) and not images.size):
        raise UserError(f"{path}: images must have shape (N, H, W) or (N, H, W, C), got {images.shape}.")
    if images.ndim == 3 and images.shape[-1] in (3, 4) and images.shape[1] > 4:
        raise UserError(f"{path}: {images.shape} is one image (H, W, C), it seems: give images as (N, H, W, C).")
    if images.ndim == 4 and images.shape[-1] not in (1, 3):
        second, last = images.shape[1], images.shape[-1]
        if second in (1, 3) or second < last:
            images = np.moveaxis(images, 1, -1)
    return images[..., 0] if images.ndim == 4 and images.shape[-1] == 1 else images


def _labels(labels: np.ndarray, path: Path) -> np.ndarray:
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim != 1:
        raise UserError(f"{path}: labels must have shape (N,), got {labels.shape}.")
    return labels
