"""Which images a process sees, and that nothing but seed, epoch and place decides how."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from ood_nc.errors import UserError
from ood_nc.training.loading import EpochSampler, eval_loader, outlier_loader, train_loader


class Noisy(Dataset):
    """Image ``i`` is its index plus random numbers of all three generators, as a random transform would draw them."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        noise = [random.random(), np.random.rand(), float(torch.rand(()))]  # noqa: NPY002
        return torch.tensor([index, *noise], dtype=torch.float64), index % 3


def epoch_of(loader, epoch):
    loader.sampler.set_epoch(epoch)
    images, targets, indices = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(targets), torch.cat(indices)


def test_an_epoch_shows_each_image_once_in_an_order_of_its_own():
    sampler = EpochSampler(100, seed=0)
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append([key.image for key in sampler])
    assert sorted(orders[0]) == list(range(100))
    assert orders[0] == orders[2] != orders[1]
    assert [key.image for key in EpochSampler(100, seed=1)] != orders[0]


@pytest.mark.parametrize("world", [2, 3, 4])
def test_processes_walk_through_one_permutation(world):
    single = list(EpochSampler(12, seed=5))
    parts = [list(EpochSampler(12, seed=5, rank=rank, world=world)) for rank in range(world)]
    assert [key for step in zip(*parts, strict=True) for key in step] == single


def test_unequal_shares_are_cut_to_the_shortest():
    parts = [[key.image for key in EpochSampler(11, seed=0, rank=rank, world=4)] for rank in range(4)]
    assert [len(part) for part in parts] == [2, 2, 2, 2]
    assert len({index for part in parts for index in part}) == 8


def test_repeated_augmentation_shows_a_third_of_the_images_three_times():
    sampler = EpochSampler(300, seed=0, repeats=3)
    keys = list(sampler)
    assert len(keys) == len(sampler) == 256  # timm rounds down to multiples of 256
    counts = Counter(key.image for key in keys)
    assert set(counts.values()) <= {3, 1} and len(counts) == 86
    assert len({key.position for key in keys}) == len(keys)  # so each copy gets a transform of its own
    other = [key.image for key in EpochSampler(300, seed=1, repeats=3)]
    assert other != [key.image for key in keys]  # timm's sampler alone ignores the seed


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_loading_processes_changes_nothing(workers):
    torch.manual_seed(0)
    alone = epoch_of(train_loader(Noisy(20), batch_size=4, seed=3), 2)
    torch.manual_seed(1)
    helped = epoch_of(train_loader(Noisy(20), batch_size=4, seed=3, workers=workers), 2)
    for first, second in zip(alone, helped, strict=True):
        assert torch.equal(first, second)


def test_transforms_differ_by_epoch_place_and_seed_but_not_by_history():
    loader = train_loader(Noisy(20), batch_size=5, seed=0)
    first, later = epoch_of(loader, 0)[0], epoch_of(loader, 1)[0]
    noise = torch.cat([first, later])[:, 1:]
    assert len(torch.unique(noise)) == noise.numel()
    straight_there = epoch_of(train_loader(Noisy(20), batch_size=5, seed=0), 1)[0]
    assert torch.equal(straight_there, later)
    assert not torch.equal(epoch_of(train_loader(Noisy(20), batch_size=5, seed=1), 1)[0], later)


def test_loading_leaves_the_models_random_numbers_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    epoch_of(train_loader(Noisy(8), batch_size=4), 0)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("size", "batch", "accum", "even", "batches", "length"),
    [
        (20, 8, 1, False, 2, 8),  # the incomplete batch is left out
        (20, 4, 2, False, 4, 4),  # and so is an incomplete step
        (5, 8, 1, False, 1, 5),  # unless it is all there is
        (5, 8, 2, False, 2, 2),
        (5, 8, 1, True, 1, 4),
    ],
)
def test_batches_are_full_and_steps_whole(size, batch, accum, even, batches, length):
    loader = train_loader(Noisy(size), batch_size=batch, accum_steps=accum, even=even)
    assert len(loader) == batches
    assert [len(images) for images, _, _ in loader] == [length] * batches


def test_too_few_images_and_odd_mixup_are_one_line():
    with pytest.raises(UserError, match=r"data\.train holds 3 images; one step needs at least 4"):
        train_loader(Noisy(3), batch_size=8, accum_steps=4)
    with pytest.raises(UserError, match=r"train\.batch_size is 7"):
        train_loader(Noisy(30), batch_size=7, even=True)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 12])
def test_evaluation_sees_each_sample_once(world):
    """The padding of torch's DistributedSampler shows 12 samples of 10 to four processes."""
    shares = []
    for rank in range(world):
        batches = [images for images, _ in eval_loader(Noisy(10), batch_size=3, rank=rank, world=world)]
        shares.append(torch.cat(batches)[:, 0].int().tolist())
    assert {len(share) for share in shares} == {math.ceil(10 / world)}, "all forward as often"
    in_turn = [sample for turn in zip(*shares, strict=True) for sample in turn]
    assert in_turn[:10] == list(range(10)) and set(in_turn) == set(range(10))


@pytest.mark.parametrize("world", [1, 2])
def test_balanced_sampling_draws_every_class_equally_often(world):
    labels = np.array([0] * 50 + [1] * 5 + [7] * 5)
    parts = [list(EpochSampler(60, seed=3, rank=rank, world=world, balance=labels)) for rank in range(world)]
    keys = sorted((key for part in parts for key in part), key=lambda key: key.position)
    assert [key.position for key in keys] == list(range(60))
    drawn = labels[[key.image for key in keys]]
    assert [int((drawn == label).sum()) for label in (0, 1, 7)] == [20, 20, 20]
    assert keys == list(EpochSampler(60, seed=3, balance=labels)), "the same whatever the number of processes"
    assert len({key.image for key in keys if labels[key.image] == 0}) > 10, "not one image again and again"
    other = EpochSampler(60, seed=3, balance=labels)
    other.set_epoch(1)
    assert [key.image for key in other] != [key.image for key in keys]


def test_repeats_and_balance_do_not_go_together():
    with pytest.raises(UserError, match="use one of them"):
        EpochSampler(6, seed=0, repeats=3, balance=np.arange(6))


@pytest.mark.parametrize("world", [1, 2])
def test_outliers_come_in_as_many_batches_whatever_their_number(world):
    drawn = []
    for rank in range(world):
        beside = train_loader(Noisy(48), batch_size=12 // world, seed=2, rank=rank, world=world)
        loader = outlier_loader(Noisy(7), beside, seed=2)
        assert len(loader) == len(beside) == 4
        first, again, other = (epoch_of(loader, epoch)[2] for epoch in (0, 0, 1))
        assert torch.equal(first, again) and not torch.equal(first, other)
        loader.sampler.set_epoch(0, 24 // world)
        assert torch.equal(torch.cat([indices for *_, indices in loader]), first[24 // world :])
        drawn.append(first)
    assert set(torch.cat(drawn).tolist()) == set(range(7)) and len(torch.cat(drawn)) == 48
