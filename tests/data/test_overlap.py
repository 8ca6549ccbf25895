from __future__ import annotations

import itertools
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from ood_nc.data import ImageDataset, find_overlaps, open_dataset
from ood_nc.data.stores import ArrayStore
from ood_nc.errors import UserError

from .conftest import encoded, put

ROLES = {"train": "fit", "tune": "choose", "held out": "calibrate", "id": "test", "ood": "test"}


def array_set(name, values):
    images = np.array(values, dtype=np.uint8)[:, None, None] * np.ones((1, 3, 3), dtype=np.uint8)
    ids = [f"{name}-{place}" for place in range(len(values))]
    return ImageDataset(ArrayStore(images), name=name, ids=ids, targets=np.zeros(len(values)))


def test_every_pair_against_a_slow_comparison():
    generator = np.random.default_rng(0)
    sets = {name: array_set(name, generator.integers(0, 40, 15)) for name in ROLES}
    found = {(entry.first, entry.second): entry for entry in find_overlaps(sets, ROLES)}
    for first, second in itertools.combinations(ROLES, 2):
        a, b = sets[first], sets[second]
        slow = [b.ids[j] for j in range(15) if any(a.content(i) == b.content(j) for i in range(15))]
        entry = found.pop((first, second), None)
        assert slow == ([] if entry is None else list(entry.ids))
        if entry is not None:
            assert entry.n == 15 and entry.roles == (ROLES[first], ROLES[second])
            assert entry.leaks is (ROLES[second] == "test" and ROLES[first] != "test")
    assert not found


def test_half_of_the_test_set_under_another_name_is_found(tmp_path):
    """A copied folder, a link, a zip: the name and the kind of the source do not hide an image."""
    files = {f"{index}.png": encoded(index, 64) for index in range(10)}
    test = put(tmp_path / "test", files)
    put(tmp_path / "half", {f"other{index}.png": files[f"{index}.png"] for index in range(5)})
    (tmp_path / "link").symlink_to(test)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/7.png", files["7.png"])
        archive.writestr("x/70.png", encoded(70))
    sets = {name: open_dataset(str(tmp_path / name)) for name in ("test", "half", "link", "a.zip")}
    roles = {"test": "test", "half": "choose", "link": "choose", "a.zip": "fit"}
    found = {(entry.first, entry.second): entry for entry in find_overlaps(sets, roles) if entry.leaks}
    assert {pair: len(entry.ids) for pair, entry in found.items()} == {
        ("half", "test"): 5,
        ("link", "test"): 10,
        ("a.zip", "test"): 1,
    }
    assert str(found["a.zip", "test"]) == "1 of 10 images of test are also in a.zip (first: 7.png)"


def test_copies_inside_a_set_are_no_overlap_and_cost_nothing():
    many = {"train": array_set("train", [7] * 4000), "id": array_set("id", [7] * 4000)}
    start = time.perf_counter()
    (entry,) = find_overlaps(many, ROLES)
    assert len(entry.ids) == 4000
    assert time.perf_counter() - start < 5


class Marked(ArrayStore):
    """Images that are never read: their marks are numbers."""

    def mark(self, index):
        return 100, int(self.images[index]).to_bytes(16, "big")


def test_millions_of_images_take_a_few_bytes_each():
    n = 30_000
    ids = tuple(map(str, range(n)))
    sets = {
        name: ImageDataset(Marked(np.arange(start, start + n)), name=name, ids=ids, targets=np.zeros(n))
        for name, start in (("train", 0), ("id", n - 3))
    }
    tracemalloc.start()
    (entry,) = find_overlaps(sets, ROLES)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert entry.ids == ("0", "1", "2")
    assert peak < 80 * 2 * n, f"{peak / (2 * n):.0f} bytes an image"


def test_an_image_that_cannot_be_read_is_no_copy_of_another(tmp_path):
    files = {f"{index}.png": encoded(index, 64) for index in range(4)}
    sets = {name: open_dataset(str(put(tmp_path / name, files))) for name in ("train", "id")}
    for name in sets:
        (tmp_path / name / "1.png").unlink()
    (entry,) = find_overlaps(sets, ROLES)
    assert entry.ids == ("0.png", "2.png", "3.png")


def test_a_set_needs_a_role():
    with pytest.raises(UserError, match="Set 'new' has role None: use fit, choose, calibrate, test"):
        find_overlaps({"new": array_set("new", [1])}, {})
