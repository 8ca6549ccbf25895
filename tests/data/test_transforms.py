from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image

from ood_nc.config import AugmentConfig
from ood_nc.data import eval_transform, train_transform
from ood_nc.errors import UserError

PREPROCESSING = {
    "input_size": (3, 32, 32),
    "mean": (0.5, 0.4, 0.3),
    "std": (0.2, 0.25, 0.3),
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "crop_mode": "center",
}
GREY = {**PREPROCESSING, "input_size": (1, 32, 32)}
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))


def test_evaluation_is_timms_own():
    expected = timm.data.create_transform(**PREPROCESSING, is_training=False)(IMAGE)
    assert torch.equal(eval_transform(PREPROCESSING)(IMAGE), expected)


def test_normalisation_by_hand():
    size = {**PREPROCESSING, "crop_pct": 1.0}
    image = Image.fromarray(np.full((32, 32, 3), 102, dtype=np.uint8))
    expected = (torch.tensor([0.4, 0.4, 0.4]) - torch.tensor([0.5, 0.4, 0.3])) / torch.tensor([0.2, 0.25, 0.3])
    assert torch.allclose(eval_transform(size)(image), expected[:, None, None].expand(3, 32, 32), atol=1e-6)


def test_training_is_random_and_seeded():
    transform = train_transform(PREPROCESSING, AugmentConfig(hflip=0.5, reprob=0.3, aa="rand-m5-n2", color_jitter=0.2))
    assert transform(IMAGE).shape == (3, 32, 32)
    assert not torch.equal(transform(IMAGE), transform(IMAGE))


def test_flip_probability_is_passed_on():
    augment = AugmentConfig(scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=1.0)
    square = IMAGE.crop((0, 0, 40, 40))
    flipped = train_transform(PREPROCESSING, augment)(square)
    plain = train_transform(PREPROCESSING, augment.model_copy(update={"hflip": 0.0}))(square)
    assert torch.equal(flipped, plain.flip(-1))


def test_without_augmentation_training_sees_what_evaluation_sees():
    transform = train_transform(PREPROCESSING, AugmentConfig(no_aug=True))
    assert torch.equal(transform(IMAGE), eval_transform(PREPROCESSING)(IMAGE))


@pytest.mark.parametrize("aa", [None, "rand-m5-n2"])
def test_one_channel(aa):
    for transform in (eval_transform(GREY), train_transform(GREY, AugmentConfig(aa=aa))):
        assert transform(IMAGE).shape == (1, 32, 32)
    flat = Image.fromarray(np.full((32, 32), 102, dtype=np.uint8)).convert("RGB")
    expected = (0.4 - 0.4) / 0.25
    assert torch.allclose(eval_transform(GREY)(flat), torch.full((1, 32, 32), expected), atol=1e-6)


def test_one_channel_with_its_own_mean():
    flat = Image.fromarray(np.full((32, 32), 204, dtype=np.uint8)).convert("RGB")
    out = eval_transform({**GREY, "mean": (0.3,), "std": (0.5,)})(flat)
    assert torch.allclose(out, torch.ones(1, 32, 32), atol=1e-6)


def test_small_images_are_enlarged():
    assert eval_transform(PREPROCESSING)(IMAGE.resize((8, 8))).shape == (3, 32, 32)


FOUR = {**PREPROCESSING, "input_size": (4, 32, 32), "mean": (0.5, 0.4, 0.3, 0.2), "std": (0.2, 0.25, 0.3, 0.5)}


def test_each_of_many_channels_is_treated_as_a_grey_image():
    values = np.random.default_rng(1).integers(0, 256, (40, 60, 4), dtype=np.uint8)
    found = eval_transform(FOUR)(values)
    for channel in range(4):
        grey = {**GREY, "mean": FOUR["mean"][channel : channel + 1], "std": FOUR["std"][channel : channel + 1]}
        expected = eval_transform(grey)(Image.fromarray(values[..., channel]))
        assert torch.allclose(found[channel], expected[0], atol=1e-6)


def test_random_choices_are_the_same_in_all_channels():
    plane = np.random.default_rng(1).integers(0, 256, (40, 60, 1), dtype=np.uint8)
    preprocessing = {**FOUR, "mean": (0.5,), "std": (0.25,)}
    transform = train_transform(preprocessing, AugmentConfig(reprob=0.5))
    images = [transform(np.repeat(plane, 4, axis=2)) for _ in range(3)]
    assert all(torch.equal(image[0], plane) for image in images for plane in image)
    assert not torch.equal(images[0], images[1])


@pytest.mark.parametrize("image", [IMAGE, np.zeros((8, 8), np.uint8), np.zeros((8, 8, 5), np.uint8)])
def test_images_of_other_channel_counts_are_refused(image):
    with pytest.raises(UserError, match=r"it has [135] channels, the model takes 4 \(model.in_chans\)"):
        eval_transform(FOUR)(image)


def test_a_model_reads_images_by_its_own_rules():
    wide = Image.fromarray(np.full((32, 32), 2048, dtype=np.uint16))
    size = {**PREPROCESSING, "crop_pct": 1.0, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    ruled = {**size, "pixels": {"value_range": [0, 4096]}}
    assert torch.allclose(eval_transform(ruled)(wide), torch.full((3, 32, 32), 128 / 255), atol=1e-6)
    assert torch.allclose(eval_transform(size)(wide), torch.full((3, 32, 32), 8 / 255), atol=1e-6)


def test_transforms_travel_to_workers():
    for preprocessing in (PREPROCESSING, GREY):
        transform = train_transform(preprocessing, AugmentConfig())
        assert pickle.loads(pickle.dumps(transform))(IMAGE).shape[1:] == (32, 32)


@pytest.mark.parametrize("reprob", [0.0, 1.0])
def test_training_is_timms_own_with_the_same_random_numbers(reprob):
    augment = AugmentConfig(color_jitter=0.2, reprob=reprob)
    theirs = timm.data.create_transform(
        **{key: PREPROCESSING[key] for key in ("input_size", "mean", "std", "interpolation")},
        is_training=True, color_jitter=0.2, re_prob=reprob,
    )  # fmt: skip
    images = []
    for transform in (theirs, train_transform(PREPROCESSING, augment)):
        random.seed(1)
        torch.manual_seed(1)
        images.append(transform(IMAGE))
    assert torch.equal(*images)


@pytest.mark.parametrize("reprob", [0.0, 1.0])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_batch_normalised_at_once_is_its_images_normalised_alone(channels, reprob):
    settings = {**PREPROCESSING, "input_size": (channels, 32, 32)}
    image = IMAGE if channels < 4 else np.asarray(IMAGE.convert("RGBA"))
    batches = []
    for by_batch in (False, True):
        random.seed(1)
        torch.manual_seed(1)
        transform = train_transform(settings, AugmentConfig(reprob=reprob), by_batch=by_batch)
        batches.append(torch.stack([transform(image) for _ in range(3)]))
    alone, at_once = batches
    assert (at_once.dtype == torch.uint8) == (reprob == 0)
    normalised = transform.normalize(at_once)
    assert torch.equal(normalised, alone)
    assert normalised.is_contiguous()


@pytest.mark.parametrize("policy", ["xxx", "rand-mx", "rand-m9-q1", "augmix-", "x" * 5000, "original-m", "rand-n"])
def test_a_policy_that_timm_lacks_is_one_line_or_works(policy):
    settings = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    try:
        train_transform(settings, AugmentConfig(aa=policy))
    except UserError as error:
        assert "augment.aa is" in str(error) and len(str(error)) < 300
    else:
        assert policy not in ("xxx", "x" * 5000)
