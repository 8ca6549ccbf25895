"""Data sets of the user's own: any torch ``Dataset`` or ``DataLoader`` of (image, label) as an `ImageDataset`."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, IterableDataset, Subset, SubsetRandomSampler

from ood_nc.data.dataset import ImageDataset, reason
from ood_nc.data.hub import keep_images, labels_of
from ood_nc.data.pixels import PixelError, to_rgb
from ood_nc.data.sources import open_dataset
from ood_nc.data.stores import FileStore, Store, WrappedStore
from ood_nc.errors import UserError

_ITEMS = "items must be (image, label): PIL, a uint8 or [0, 1] float tensor (C, H, W), or an array (H, W, C)"


def as_dataset(source: Any, name: str | None = None) -> ImageDataset:
    """Open whatever holds images with labels.

    A data set of torchvision is read without its own transform, in whose place the model's preprocessing comes; of an
    ``ImageFolder`` without a loader or labels of its own the files are read. Any other data set's items are taken as
    they are: 8-bit images, or floating point from 0 to 1; what is normalised already is refused. Of a ``DataLoader``
    the data set is read, in its own order (of a ``SubsetRandomSampler`` the part that it draws from). Streams are read
    once and kept in a temporary folder.

    Args:
        source: `ImageDataset`, a name for `open_dataset`, a torch ``Dataset`` or ``DataLoader``, or any sequence of
            (image, label).
        name: what notes and errors call it; the type when not given.

    Raises:
        UserError: it is none of these, or its items are others.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> grey = torch.full((4, 1, 8, 8), 0.5), torch.tensor([0, 1, 0, 1])
        >>> dataset = as_dataset(TensorDataset(*grey))
        >>> dataset.load(0).getpixel((0, 0)), dataset.targets.tolist()
        ((128, 128, 128), [0, 1, 0, 1])
    """
    if isinstance(source, ImageDataset):
        return source
    if isinstance(source, (str, Path)):
        return open_dataset(str(source))
    name = name or type(source).__name__
    if isinstance(source, DataLoader):
        dataset = as_dataset(source.dataset, name if name != "DataLoader" else None)
        sampler = source.sampler
        return dataset.subset(sorted(sampler.indices)) if isinstance(sampler, SubsetRandomSampler) else dataset
    if isinstance(source, Subset):
        return as_dataset(source.dataset, name if name != "Subset" else None).subset(list(source.indices))
    if isinstance(source, IterableDataset):
        store, targets = keep_images(source, name)
        return _wrapped(store, targets, source, name)
    if not (hasattr(source, "__getitem__") and hasattr(source, "__len__")):
        raise UserError(f"{name} is no data set: give a source by name, a torch Dataset or a DataLoader.")
    return _of_files(source, name) or _of_items(source, name)


def _of_files(source: Any, name: str) -> ImageDataset | None:
    """A torchvision ``ImageFolder`` by its files, so that copies are found as files."""
    from torchvision.datasets import ImageFolder
    from torchvision.datasets.folder import default_loader

    if not isinstance(source, ImageFolder) or source.target_transform is not None:
        return None
    if type(source).__getitem__ is not ImageFolder.__getitem__ or source.loader is not default_loader:
        return None  # its items are others than its files
    root = str(source.root)
    names = [os.path.relpath(path, root) for path, _ in source.samples]
    targets = np.array([label for _, label in source.samples], dtype=np.int64)
    store = FileStore(root, names)
    return ImageDataset(store, name=name, ids=names, targets=targets, class_names=list(map(str, source.classes)))


def _of_items(source: Any, name: str) -> ImageDataset:
    from torchvision.datasets import VisionDataset

    items = source
    if isinstance(source, VisionDataset):
        items = copy.copy(source)
        items.transform = items.transforms = None
    if len(items) == 0:
        raise UserError(f"{name} is empty.")
    store = WrappedStore(items)
    try:
        to_rgb(store.image(0))
        targets = labels_of(items, name)
    except PixelError as error:
        normalised = "; leave Normalize to the model's own preprocessing" if "not 0 to 1" in str(error) else ""
        raise UserError(f"{name}: {str(error).partition(': ')[0]}{normalised}: {_ITEMS}.") from error
    except (TypeError, IndexError, KeyError, ValueError) as error:
        raise UserError(f"{name} cannot be read ({reason(error)}): {_ITEMS}.") from error
    return _wrapped(store, targets, source, name)


def _wrapped(store: Store, targets: Any, source: Any, name: str) -> ImageDataset:
    ids = [f"{index:06d}" for index in range(len(store))]
    dataset = ImageDataset(store, name=name, ids=ids, targets=targets)
    classes = getattr(source, "classes", None)
    if isinstance(classes, (list, tuple)) and len(classes) >= dataset.num_classes:
        dataset.class_names = tuple(str(entry) for entry in classes)
    return dataset
