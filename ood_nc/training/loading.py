"""Which images a process sees in which order, and the loader that brings them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from timm.data.distributed_sampler import RepeatAugSampler
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from ood_nc.errors import UserError
from ood_nc.processes import bounded_workers
from ood_nc.training.seeds import derive_seed, preserved_generators, seed_transforms


class SampleKey(NamedTuple):
    """One training sample: which image, and where in which epoch it stands (over all processes)."""

    epoch: int
    position: int
    image: int


class EpochSampler(Sampler[SampleKey]):
    """The samples of one process in one epoch; `set_epoch` chooses the epoch.

    All processes walk through one permutation in turn, so a step of the same global batch holds the same images
    whatever the number of processes. With ``repeats`` above 1 the order is timm's repeated augmentation: each image so
    many times in a row, an epoch as long as without.

    Args:
        size: images in the data set.
        seed: seed of the order.
        repeats: copies of an image, 0 or 1 for none.
        rank: this process.
        world: number of processes.
        balance: the class of each image (N,): every class is drawn equally often, its images with replacement.

    Raises:
        UserError: both repeats and balance.
    """

    def __init__(
        self,
        size: int,
        *,
        seed: int,
        repeats: int = 0,
        rank: int = 0,
        world: int = 1,
        balance: np.ndarray | None = None,
    ) -> None:
        if balance is not None and repeats > 1:
            raise UserError("train.balanced_sampling and augment.aug_repeats each set the order: use one of them.")
        self.size, self.seed, self.rank, self.world = size, seed, rank, world
        self.epoch, self.start = 0, 0
        self._balance = None if balance is None else np.asarray(balance)
        self._repeated = None
        if repeats > 1:  # of fewer than 256 images, timm before 1.0.31 leaves none unless it is told not to round
            settings = {} if size >= 256 else {"selected_round": 0}
            self._repeated = RepeatAugSampler(
                range(size), num_replicas=world, rank=rank, num_repeats=repeats, **settings
            )
        self.length = size // world if self._repeated is None else len(self._repeated)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch that the next iteration goes through, and how many of its samples are behind it."""
        self.epoch, self.start = epoch, start

    def keep(self, length: int) -> None:
        """End the epoch after ``length`` samples, so that every batch is full."""
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[SampleKey]:
        for place, index in enumerate(self._order()[self.start : self.length], self.start):
            yield SampleKey(self.epoch, place * self.world + self.rank, index)

    def _order(self) -> list[int]:
        seed = derive_seed(self.seed, "order", self.epoch)
        if self._repeated is not None:
            self._repeated.set_epoch(seed)
            return list(self._repeated)
        if self._balance is not None:
            return self._balanced(self._balance, seed)[self.rank :: self.world].tolist()
        order = torch.randperm(self.size, generator=torch.Generator().manual_seed(seed))
        return order[self.rank :: self.world].tolist()

    def _balanced(self, labels: np.ndarray, seed: int) -> np.ndarray:
        generator, by_class = np.random.default_rng(seed), np.argsort(labels, kind="stable")
        _, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
        chosen = generator.permutation(np.arange(self.size) % len(counts))
        return by_class[starts[chosen] + generator.integers(counts[chosen])]


class SeededSamples(Dataset):
    """A data set whose random transform depends on the seed, the epoch and the sample's place in it alone."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitems__(self, keys: Sequence[SampleKey]) -> list[tuple[torch.Tensor, int, int]]:
        """The samples of one batch, in the process that loads it."""
        samples = []
        with preserved_generators():
            for key in keys:
                seed_transforms(self.seed, "sample", key.epoch, key.position)
                samples.append((*self.dataset[key.image], key.image))
        return samples


def train_loader(
    dataset: Dataset,
    *,
    batch_size: int,
    accum_steps: int = 1,
    repeats: int = 0,
    balance: np.ndarray | None = None,
    even: bool = False,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
) -> DataLoader:
    """A loader of ``(images, targets, indices)`` whose epochs hold full batches only, in whole optimiser steps.

    A data set smaller than one step is one step of smaller batches.

    Args:
        dataset: (image, target) by index, with the training transform.
        batch_size: images a batch in this process.
        accum_steps: batches a step.
        repeats: see `EpochSampler`.
        balance: see `EpochSampler`.
        even: the batch size must be even (mixup pairs images).
        seed: seed of the order and of the transforms.
        rank: this process.
        world: number of processes.
        workers: processes that load.
        pin_memory: page-locked batches, for copies to a GPU.

    Raises:
        UserError: too few images for one step, or an odd batch size where it must be even.
    """
    size = len(dataset)  # type: ignore[arg-type]
    sampler = EpochSampler(size, seed=seed, repeats=repeats, rank=rank, world=world, balance=balance)
    if even and batch_size % 2:
        raise UserError(f"train.batch_size is {batch_size}: mixup and cutmix need an even one.")
    batch_size = min(batch_size, len(sampler) // accum_steps)
    if even:
        batch_size -= batch_size % 2
    if batch_size < 1:
        needed = accum_steps * world * (2 if even else 1)
        raise UserError(f"data.train holds {size} images; one step needs at least {needed}.")
    sampler.keep(len(sampler) // (batch_size * accum_steps) * batch_size * accum_steps)
    return _loader(dataset, sampler, batch_size, seed, workers, pin_memory)


def outlier_loader(
    dataset: Dataset, beside: DataLoader, *, seed: int = 0, workers: int = 0, pin_memory: bool = False
) -> DataLoader:
    """A loader of as many batches as another has, of as many images each, drawn with replacement.

    Args:
        dataset: (image, target) by index, with the training transform.
        beside: of `train_loader`.
        seed: seed of the draws and of the transforms.
        workers: processes that load.
        pin_memory: page-locked batches, for copies to a GPU.
    """
    like, own = beside.sampler, derive_seed(seed, "outliers")
    assert isinstance(like, EpochSampler)
    one_class = np.zeros(len(dataset), dtype=np.int64)  # type: ignore[arg-type]
    size = len(like) * like.world
    sampler = EpochSampler(size, seed=own, rank=like.rank, world=like.world, balance=one_class)
    return _loader(dataset, sampler, int(beside.batch_size or 1), own, workers, pin_memory)


def _loader(
    dataset: Dataset, sampler: EpochSampler, batch_size: int, seed: int, workers: int, pin_memory: bool
) -> DataLoader:
    return DataLoader(
        SeededSamples(dataset, seed),
        batch_size=batch_size,
        sampler=sampler,
        num_workers=bounded_workers(workers),
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(derive_seed(seed, "loader")),
    )


def eval_loader(
    dataset: Dataset, *, batch_size: int, rank: int = 0, world: int = 1, workers: int = 0, pin_memory: bool = False
) -> DataLoader:
    """A loader over every ``world``-th sample: together the processes see each once.

    All see as many, so that all forward as often: where the number does not divide, the last one of some is one of the
    first again.
    """
    size = len(dataset)  # type: ignore[arg-type]
    part = Subset(dataset, [index % size for index in range(rank, -(-size // world) * world, world)])
    # A generator of its own: how often a run is measured must not change what it draws.
    return DataLoader(
        part,
        batch_size=batch_size,
        num_workers=bounded_workers(workers),
        pin_memory=pin_memory,
        generator=torch.Generator(),
    )
