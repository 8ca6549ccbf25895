from __future__ import annotations

import numpy as np
import pytest

from ood_nc.config import PixelConfig
from ood_nc.data import find_overlaps, open_dataset, scan, shared_class_names
from ood_nc.data.dataset import ImageDataset
from ood_nc.data.stores import ArrayStore

from .conftest import encoded
from .test_dataset import make


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_are_named_with_their_reason(folder, workers):
    jpeg = encoded(3, 64, "jpeg")
    files = {f"a/{index}.png": encoded(index) for index in range(300)}
    files |= {"a/cut.jpg": jpeg[:-900], "a/whole.jpg": jpeg, "b/empty.png": b"", "b/text.jpg": b"<html>"}
    files["b/cut.png"] = encoded(9, 64)[:-4000]
    dataset = open_dataset(str(folder(files)))
    (folder({}) / "a/7.png").unlink()
    report = scan(dataset, workers=workers)
    assert [name for name, _ in report.broken] == ["a/7.png", "a/cut.jpg", "b/cut.png", "b/empty.png", "b/text.jpg"]
    assert dict(report.broken)["a/7.png"] == "no such file"
    assert "truncated" in dict(report.broken)["a/cut.jpg"]
    assert "5 of 305 images cannot be read, the first is a/7.png (no such file)" in report.lines()[0]
    assert scan(dataset, decode=False).broken == []


def test_clean_set_has_no_lines():
    report = scan(make())
    assert report.lines() == []
    assert report.classes == {"a": 1, "b": 1, "c": 1}
    assert report.n == 3


def test_classes_without_names_and_without_labels():
    assert scan(make(class_names=None, targets=(0, 2, 2))).classes == {"0": 1, "1": 0, "2": 2}
    assert scan(make(class_names=None, targets=(-1, -1))).classes == {}


def test_copies_inside_a_set(folder):
    large = encoded(1, 64)
    assert len(large) > 4096
    report = scan(open_dataset(str(folder({"a/1.png": large, "a/2.png": encoded(2), "b/3.png": large}))))
    assert report.duplicates == [("b/3.png", "a/1.png")]
    assert report.lines()[0].endswith("1 of 3 images are copies, the first is b/3.png of a/1.png")


def test_equal_ends_are_no_copies(folder):
    """Two files that differ only before their last 4 KiB."""
    end = bytes(5000)
    dataset = open_dataset(str(folder({"a/1.bmp": b"x" + end, "a/2.bmp": b"y" + end, "a/3.bmp": b"y" + end})))
    assert scan(dataset, decode=False).duplicates == [("a/3.bmp", "a/2.bmp")]


def test_unreadable_files_are_copies_of_nothing(folder):
    dataset = open_dataset(str(folder({"a/1.png": encoded(1), "b/1.png": encoded(1)})))
    for name in ("a/1.png", "b/1.png"):
        (folder({}) / name).unlink()
    assert scan(dataset, decode=False).duplicates == []
    assert find_overlaps({"a": dataset, "b": dataset}, {"a": "fit", "b": "test"}) == []
    assert len(dataset.fingerprint()) == 32


def test_shared_class_names():
    def named(*names, targets=None):
        images = np.zeros((len(names), 2, 2), np.uint8)
        targets = np.arange(len(names)) if targets is None else np.array(targets)
        ids = [str(index) for index in range(len(names))]
        return ImageDataset(ArrayStore(images), name="x", ids=ids, targets=targets, class_names=names)

    cifar = named("airplane", "automobile", "bird", "cat", "sea_lion")
    stl = named("airplane", "bird", "car", "Cat", "sea lion", "monkey")
    assert shared_class_names(cifar, stl) == ["airplane", "bird", "Cat", "sea lion"]
    assert shared_class_names(cifar, named("bird", "cat", targets=[0, 0])) == ["bird"]
    assert shared_class_names(cifar, make(class_names=None)) == []


@pytest.mark.parametrize(("most", "is_dark"), [(4095, True), (60_000, False)])
def test_twelve_bits_in_files_of_sixteen_are_noted(most, is_dark):
    values = np.linspace(0, most, 64).astype(np.uint16).reshape(1, 8, 8)
    dataset = ImageDataset(ArrayStore(values), name="x", ids=["0"], targets=np.zeros(1))
    note = "x: 1 images have 16 bits and use 6.3% of them at most: state the range, e.g. --value-range 0,4095"
    assert [line.startswith(note) for line in scan(dataset).lines()] == [True] * is_dark
    assert scan(dataset.with_pixels(PixelConfig(value_range=(0, 4095)))).lines() == []
