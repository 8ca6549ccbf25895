from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from ood_nc.data import ImageDataset, as_dataset, open_dataset
from ood_nc.data.audit import find_near_duplicates, look, near_duplicates
from tests.helpers.pictures import picture


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    content = io.BytesIO()
    image.save(content, "jpeg", quality=quality)
    return Image.open(content).convert("RGB")


def resized(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


CHANGES = {
    "encoded at quality 30": lambda image: jpeg(image, 30),
    "half the size": lambda image: resized(image, 0.5),
    "twice the size": lambda image: resized(image, 2),
    "another shape": lambda image: image.resize((64, 64), Image.Resampling.BILINEAR),
    "a third brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.6),
    "less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.7),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "mirrored": ImageOps.mirror,
    "mirrored, small, brighter, encoded": lambda image: jpeg(
        ImageEnhance.Brightness(resized(ImageOps.mirror(image), 0.7)).enhance(1.15), 75
    ),
}


def dataset(images: list[Image.Image]) -> ImageDataset:
    return as_dataset([(image, 0) for image in images], "pictures")


@pytest.fixture(scope="module")
def bank():
    return look(dataset([picture(seed) for seed in range(120)]))


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_and_nothing_else_is(change, bank):
    copied = [3, 50, 119]
    fresh = [picture(seed) for seed in range(1000, 1030)]
    found = find_near_duplicates(bank, look(dataset([*fresh, *(CHANGES[change](picture(seed)) for seed in copied)])))
    assert [(pair.second, pair.first) for pair in found] == list(zip(range(30, 33), copied, strict=True))
    assert [pair.mirrored for pair in found] == [change.startswith("mirrored")] * 3


def test_different_pictures_are_far_from_the_limit(bank):
    others = look(dataset([picture(seed) for seed in range(2000, 2100)]))
    assert find_near_duplicates(bank, others) == []
    alike = np.abs(others.descriptors.astype(np.float64) @ bank.descriptors.astype(np.float64).T)
    assert alike.max() < 0.8, "twice the distance that is allowed"


def test_drawings_that_resemble_each_other_are_no_copies():
    """Handwritten digits: two of one class are as alike as two versions of a photograph."""
    first = look(open_dataset("bundled/digits-id::train"))
    fresh = look(open_dataset("bundled/digits-id::test"))
    similar = (fresh.descriptors.astype(np.float32) @ first.descriptors.astype(np.float32).T).max(axis=1)
    assert (similar > 0.9).mean() > 0.5, "the limit for photographs alone would report most of them"
    assert find_near_duplicates(first, fresh) == []
    again = [open_dataset("bundled/digits-id::train").load(place) for place in (7, 400)]
    assert [pair.first for pair in find_near_duplicates(first, look(dataset([jpeg(one, 95) for one in again])))] == [
        7,
        400,
    ]


def test_similarity_is_the_correlation_of_weighted_cosine_waves(bank):
    """By explicit sums, in float64."""
    images = [picture(5), jpeg(picture(5), 30)]
    waves = []
    for image in images:
        grey = np.asarray(image.convert("L"), dtype=np.float64)
        blocks = grey.reshape(16, 5, 16, 6).mean(axis=(1, 3))
        n = np.arange(16)
        basis = (
            np.cos(math.pi * np.outer(n, 2 * n + 1) / 32)
            * np.where(n == 0, math.sqrt(1 / 16), math.sqrt(2 / 16))[:, None]
        )
        wave = basis @ blocks @ basis.T
        waves.append((wave * np.sqrt(np.hypot(n[:, None], n[None]))).ravel())
    expected = waves[0] @ waves[1] / np.linalg.norm(waves[0]) / np.linalg.norm(waves[1])
    (pair,) = find_near_duplicates(bank, look(dataset([images[1]])))
    assert pair.first == 5
    assert pair.similarity == pytest.approx(expected, abs=2e-3), "half precision"


def test_blocks_change_nothing(bank, monkeypatch):
    queries = look(dataset([jpeg(picture(seed), 60) for seed in range(100, 140)]))
    whole = find_near_duplicates(bank, queries)
    monkeypatch.setattr(near_duplicates, "_QUERIES", 7)
    monkeypatch.setattr(near_duplicates, "_BANK", 13)
    parts = find_near_duplicates(bank, queries)
    assert [(pair.second, pair.first) for pair in parts] == [(pair.second, pair.first) for pair in whole]
    assert [pair.similarity for pair in parts] == pytest.approx([pair.similarity for pair in whole], abs=1e-6)
    assert len(whole) == 20


def test_half_of_a_set_may_be_copies(bank):
    half = [jpeg(picture(seed), 80) for seed in range(60)] + [picture(seed) for seed in range(3000, 3060)]
    assert len(find_near_duplicates(bank, look(dataset(half)))) == 60


def test_few_images(bank):
    alone = look(dataset([picture(1)]))
    assert len(find_near_duplicates(alone, look(dataset([jpeg(picture(1), 50), picture(2)])))) == 1
    assert len(find_near_duplicates(look(dataset([picture(1), picture(2)])), alone)) == 1


def test_images_of_one_color_cannot_be_compared(bank):
    flat = look(dataset([Image.new("RGB", (32, 32), (90, 90, 90 + step)) for step in range(3)]))
    assert flat.distinct.tolist() == [False] * 3
    assert find_near_duplicates(flat, flat) == find_near_duplicates(bank, flat) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flowers5.tar", "dtd5_128px.tar"])
def test_the_limit_lies_between_versions_and_others_of_real_photographs(name, shared_data):
    photographs = open_dataset(str(shared_data / name))
    photographs = photographs.subset(np.random.default_rng(0).permutation(len(photographs))[:600])
    first = look(photographs.subset(range(300)))
    others = find_near_duplicates(first, look(photographs.subset(range(300, 600))))
    assert len(others) <= 3, "flowers and textures hold some true ones"
    versions = [change(photographs.load(place)) for place in range(0, 300, 6) for change in CHANGES.values()]
    found = find_near_duplicates(first, look(dataset(versions)))
    right = {pair.second for pair in found if pair.first // 6 == pair.second // len(CHANGES) and pair.first % 6 == 0}
    comparable = first.distinct[:300:6].sum() * len(CHANGES)
    assert len(right) >= 0.98 * comparable
    assert len(found) - len(right) <= 3
