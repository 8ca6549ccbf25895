from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader
from torchvision.transforms import PILToTensor

from ood_nc.data import BrokenImageError, ImageDataset, align_classes, open_dataset
from ood_nc.data.stores import ArrayStore, Store
from ood_nc.errors import UserError

from .conftest import encoded, pack


def make(targets=(0, 1, 2), class_names=("a", "b", "c"), seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (len(targets), 4, 4), dtype=np.uint8)
    ids = [f"{index}.png" for index in range(len(targets))]
    return ImageDataset(ArrayStore(images), name="made", ids=ids, targets=np.array(targets), class_names=class_names)


def test_items_and_index():
    dataset = make()
    image, target = dataset[1]
    assert (image.mode, image.size, target) == ("RGB", (4, 4), 1)
    view = dataset.with_transform(PILToTensor(), with_index=True)
    image, target, index = view[2]
    assert image.shape == (3, 4, 4) and (target, index) == (2, 2)
    assert len(dataset[0]) == 2 and dataset.transform is None, "the view left the data set as it was"


def test_repeated_items_carry_the_same_index():
    view = make().with_transform(PILToTensor(), with_index=True)
    _, _, index = next(iter(DataLoader(view, sampler=[1, 1, 2], batch_size=3)))
    assert index.tolist() == [1, 1, 2]


def test_subset_of_a_subset():
    dataset = make((0, 1, 2, 0, 1), seed=3)
    part = dataset.subset([4, 2, 0]).subset([1, 0])
    assert part.ids == ("2.png", "4.png")
    assert part.targets.tolist() == [2, 1]
    assert np.array_equal(part.load(1), dataset.load(4))


@pytest.mark.parametrize("kind", [np.array, list, torch.tensor])
def test_subset_by_a_mask_is_what_it_marks(kind):
    part = make((0, 1, 2, 0, 1)).subset(kind([False, False, True, True, True]))
    assert part.ids == ("2.png", "3.png", "4.png") and part.targets.tolist() == [2, 0, 1]


@pytest.mark.parametrize("wrong", [[True, False], [0.5], [[0, 1]], np.array(1)])
def test_subset_by_what_is_neither_indices_nor_a_mask_is_one_line(wrong):
    with pytest.raises(UserError, match=r"^made: a subset is of whole numbers \(M,\), or of a mask \(3,\) of truths"):
        make().subset(wrong)
    assert len(make().subset([])) == 0


def test_lengths_must_agree():
    with pytest.raises(UserError, match="3 images, 3 ids, 2 labels"):
        ImageDataset(ArrayStore(np.zeros((3, 2, 2), np.uint8)), name="x", ids=["a", "b", "c"], targets=np.zeros(2))


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda d: d, True),
        (lambda d: d.with_transform(PILToTensor()), True),
        (lambda d: pickle.loads(pickle.dumps(d)), True),
        (lambda d: d.subset([0, 1, 2]), True),
        (lambda d: d.subset([0, 2, 1]), False),
        (lambda d: d.subset([0, 1]), False),
        (lambda d: align_classes(d, ("c", "b", "a")), False),
        (lambda d: make(seed=1), False),
        (lambda d: make(class_names=("a", "b", "d")), False),
    ],
)
def test_fingerprint_follows_the_data_and_nothing_else(change, same):
    dataset = make()
    assert (change(dataset).fingerprint() == dataset.fingerprint()) is same


def test_fingerprint_sees_one_changed_byte(folder):
    root = folder({"a/1.png": encoded(1, 64), "b/1.png": encoded(2, 64)})
    before = open_dataset(str(root)).fingerprint()
    assert (root / "a/1.png").stat().st_size > 4096
    (root / "a/1.png").write_bytes(encoded(7, 64))
    assert open_dataset(str(root)).fingerprint() != before


@pytest.mark.parametrize("packed", ["folder", "a.tar", "a.zip"])
@pytest.mark.parametrize("kind", ["bmp", "tiff", "ppm"])
def test_fingerprint_sees_a_change_far_from_the_end_of_what_is_not_packed(kind, packed, folder, tmp_path):
    content = bytearray(encoded(1, 64, kind))

    def opened():
        files = {f"a/1.{kind.upper()}": bytes(content)}
        return open_dataset(str(folder(files) if packed == "folder" else pack(tmp_path / packed, files)))

    before = opened()
    fingerprint, pixels = before.fingerprint(), np.asarray(before.load(0))
    content[3000:3012] = bytes(255 - value for value in content[3000:3012])
    after = opened()
    assert (pixels != np.asarray(after.load(0))).any() and len(content) > 3012 + 4096
    assert after.fingerprint() != fingerprint


class TestAlign:
    def test_by_name(self):
        aligned = align_classes(make(), ("x", "c", "b", "a"))
        assert aligned.targets.tolist() == [3, 2, 1]
        assert aligned.class_names == ("x", "c", "b", "a")

    def test_unlabelled_stay_so(self):
        assert align_classes(make((0, -1, 2)), ("c", "b", "a")).targets.tolist() == [2, -1, 0]

    def test_empty_unknown_class_is_no_error(self):
        assert align_classes(make((0, 1, 1)), ("b", "a")).targets.tolist() == [1, 0, 0]

    def test_unknown_names_are_listed(self):
        with pytest.raises(UserError, match=r"not known: b, c\. Known: a, z"):
            align_classes(make(), ("a", "z"))

    def test_indices_are_checked(self):
        assert align_classes(make(class_names=None), ("a", "b", "c")).class_names == ("a", "b", "c")
        with pytest.raises(UserError, match="label 2, but there are 2 classes"):
            align_classes(make(class_names=None), ("a", "b"))


class TestBroken:
    @pytest.fixture
    def dataset(self, folder):
        files = {"a/1.png": encoded(1), "b/cut.jpg": encoded(2, 64, "jpeg")[:-900], "b/text.png": b"not an image"}
        return open_dataset(str(folder(files)))

    def test_names_the_file_in_one_line(self, dataset):
        with pytest.raises(BrokenImageError, match=r"cannot read b/cut.jpg \(.*truncated"):
            dataset[1]
        with pytest.raises(BrokenImageError, match=r"cannot read b/text.png \(not an image") as error:
            dataset[2]
        assert "\n" not in str(error.value)
        assert isinstance(error.value, UserError)

    def test_missing_file(self, dataset, folder):
        (folder({}) / "a/1.png").unlink()
        with pytest.raises(BrokenImageError, match=r"a/1.png \(no such file\)"):
            dataset[0]

    def test_stays_one_line_through_a_worker(self, dataset):
        """As a loader hands on what its worker raised."""
        try:
            dataset[1]
        except BrokenImageError:
            wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
        assert "\n" in wrapped.exc_msg
        with pytest.raises(BrokenImageError) as error:
            wrapped.reraise()
        assert "\n" not in str(error.value)
        assert str(error.value).startswith(f"{dataset.name}: cannot read b/cut.jpg")

    def test_out_of_memory_is_no_broken_image(self, dataset, monkeypatch):
        def exhausted(*_):
            raise MemoryError

        monkeypatch.setattr(Store, "decode", exhausted)
        with pytest.raises(MemoryError):
            dataset[0]


@pytest.mark.parametrize(
    ("names", "onto"),
    [(("crane", "dog", "crane"), ("dog", "crane")), (("dog", "crane", "cat"), ("crane", "dog", "crane"))],
)
def test_classes_of_one_name_are_not_merged(names, onto):
    with pytest.raises(UserError, match="two classes are called 'crane', which no name tells apart"):
        align_classes(make(class_names=names), onto)
    assert align_classes(make(class_names=names), names).targets.tolist() == [0, 1, 2]
