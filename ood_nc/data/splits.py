"""Splits and limits: stratified, seeded, and the same on every machine."""

from __future__ import annotations

import hashlib
import math

import numpy as np

from ood_nc.data.dataset import ImageDataset
from ood_nc.errors import UserError

_HELD_OUT, _HELD_OUT_SEED = 0.2, 0


def stratified_split(targets: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hold out a share of every class.

    A class gives its exact share rounded down or up and keeps at least one sample, so that the held-out part has
    ceil(fraction * N) samples, fewer only where classes of one sample have none to give.

    Args:
        targets: class of each sample (N,); -1 counts as a class.
        fraction: share of the second part, in (0, 1).
        seed: of the random choice.

    Returns:
        The indices of the first and of the second part, ascending.

    Raises:
        UserError: the fraction is not in (0, 1), or there is no sample to spare.

    Example:
        >>> kept, held_out = stratified_split(np.array([0, 0, 0, 0, 1, 1, 1, 1]), 0.25, seed=0)
        >>> len(kept), len(held_out), int((held_out < 4).sum())
        (6, 2, 1)
    """
    targets = np.asarray(targets)
    if not 0 < fraction < 1:
        raise UserError(f"The share to hold out must lie between 0 and 1, got {fraction}.")
    if len(targets) < 2:
        raise UserError(f"Cannot hold out a share of {len(targets)} sample(s).")
    _, classes, counts = np.unique(targets, return_inverse=True, return_counts=True)
    exact = counts * fraction
    take = np.minimum(np.floor(exact + 1e-9).astype(np.int64), counts - 1)
    generator = np.random.default_rng(seed)
    missing = min(math.ceil(len(targets) * fraction - 1e-9), int((counts - 1).sum())) - int(take.sum())
    for index in np.lexsort((generator.random(len(counts)), take - exact)):
        if missing > 0 and take[index] < min(exact[index], counts[index] - 1):
            take[index] += 1
            missing -= 1
    if not take.any():
        raise UserError(f"Cannot hold out a share of {fraction}: no class has two images.")
    held_out = np.zeros(len(targets), dtype=bool)
    for index, size in enumerate(take):
        members = np.flatnonzero(classes == index)
        held_out[generator.permutation(members)[:size]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def train_and_test(dataset: ImageDataset) -> tuple[ImageDataset, ImageDataset]:
    """Four fifths and one fifth (stratified, seed 0) of a set that has no split of its own.

    Example:
        >>> from ood_nc.data import open_dataset
        >>> [len(part) for part in train_and_test(open_dataset("bundled/digits-near"))]
        [290, 73]
    """
    rows = stratified_split(dataset.targets, _HELD_OUT, _HELD_OUT_SEED)
    train, test = (
        dataset.subset(part, name=f"{dataset.name}::{share}")
        for part, share in zip(rows, ("@train", "@test"), strict=True)
    )
    return train, test


def limit_per_class(dataset: ImageDataset, limit: int, seed: int = 0) -> ImageDataset:
    """At most ``limit`` images of each class; unlabelled images count as one class.

    An image is chosen by a hash of the seed and its id, so a larger limit adds images and never exchanges any.

    Example:
        >>> from ood_nc.data import open_dataset
        >>> few, more = (limit_per_class(open_dataset("bundled/digits-near"), limit) for limit in (3, 5))
        >>> len(few), set(few.ids) < set(more.ids)
        (6, True)
    """
    ranks, _ = _ranks(dataset, seed)
    return dataset.subset(np.flatnonzero(ranks < limit))


def limit_total(dataset: ImageDataset, limit: int, seed: int = 0) -> ImageDataset:
    """At most ``limit`` images in all, spread evenly over the classes; chosen as in `limit_per_class`.

    Example:
        >>> from ood_nc.data import open_dataset
        >>> limit_total(open_dataset("bundled/digits-near"), 4).targets.tolist()
        [1, 0, 1, 0]
    """
    if len(dataset) <= limit:
        return dataset
    ranks, order = _ranks(dataset, seed)
    return dataset.subset(np.sort(np.lexsort((order, ranks))[:limit]))


def _ranks(dataset: ImageDataset, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Each sample's rank inside its class under the seeded hash, and its rank among all."""
    keys = [hashlib.blake2b(f"{seed}\t{name}".encode(), digest_size=8).digest() for name in dataset.ids]
    order = np.empty(len(keys), dtype=np.int64)
    order[np.argsort(np.array(keys, dtype="S8"), kind="stable")] = np.arange(len(keys))
    ranks = np.empty(len(keys), dtype=np.int64)
    by_class = np.lexsort((order, dataset.targets))
    starts = np.flatnonzero(np.diff(dataset.targets[by_class], prepend=np.iinfo(np.int64).min))
    sizes = np.diff(starts, append=len(keys))
    ranks[by_class] = np.arange(len(keys)) - np.repeat(starts, sizes)
    return ranks, order
