from __future__ import annotations

import inspect
import io
import pickle
import sys
import types

import numpy as np
import pytest
import torchvision
from PIL import Image

from ood_nc.data import hub, open_dataset
from ood_nc.errors import MissingPackageError, UserError

from .conftest import encoded, put


def write_cifar10(root):
    """CIFAR-10 as torchvision keeps it, of two images a batch and with its checks switched off by the caller."""
    batches = {f"data_batch_{index}": index for index in range(1, 6)} | {"test_batch": 9}
    files = {}
    for name, seed in batches.items():
        data = np.random.default_rng(seed).integers(0, 256, (2, 3072), dtype=np.uint8)
        files[f"cifar-10-batches-py/{name}"] = pickle.dumps({"data": data, "labels": [seed % 10, 0]})
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    files["cifar-10-batches-py/batches.meta"] = pickle.dumps({"label_names": names})
    return put(root, files)


def test_torchvision_set_that_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    write_cifar10(tmp_path)
    test = open_dataset("torchvision/CIFAR10::test", root=tmp_path)
    assert test.targets.tolist() == [9, 0]
    assert test.class_names[9] == "truck"
    assert test.load(0).size == (32, 32)
    assert len(open_dataset("torchvision/CIFAR10::train", root=tmp_path)) == 10
    assert len(test.fingerprint()) == 32


def test_torchvision_folder_of_samples(tmp_path):
    put(tmp_path, {"a/1.png": encoded(1), "b/1.png": encoded(2)})
    dataset = open_dataset("torchvision/ImageFolder", root=tmp_path)
    assert dataset.targets.tolist() == [0, 1]
    assert dataset.class_names == ("a", "b")


def write_idx(path, array, code):
    """An array as NIST's sets are stored: two zeros, the type, the dimensions, big-endian."""
    header = bytes([0, 0, code, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + array.tobytes())


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_set_that_is_several_is_named_with_its_variant(tmp_path, split):
    """EMNIST takes one more argument, for which there was no way to give it."""
    images = np.random.default_rng(len(split)).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    labels = np.array([1, 26, 2, 1], dtype=np.uint8)
    raw = tmp_path / "EMNIST" / "raw"
    write_idx(raw / f"emnist-letters-{split}-images-idx3-ubyte", images, 8)
    write_idx(raw / f"emnist-letters-{split}-labels-idx1-ubyte", labels, 8)
    dataset = open_dataset(f"torchvision/EMNIST/letters::{split}", root=tmp_path)
    assert dataset.name == f"torchvision/EMNIST/letters::{split}"
    assert [dataset.class_names[label] for label in dataset.targets] == ["a", "z", "b", "a"]
    assert np.array_equal(np.asarray(dataset.load(2))[..., 0], images[2])
    call = r"EMNIST\('.*', split='digits', train=True, download=True\)"
    with pytest.raises(UserError, match=f"EMNIST/digits::train is not in .*{call}"):
        open_dataset("torchvision/EMNIST/digits::train", root=tmp_path)


def test_parts_of_qmnist_by_their_own_names(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (10_003, 28, 28), dtype=np.uint8)
    labels = np.zeros((10_003, 8), dtype=">i4")
    labels[:, 0] = np.arange(10_003) % 10
    raw = tmp_path / "QMNIST" / "raw"
    write_idx(raw / "qmnist-test-images-idx3-ubyte", images, 8)
    write_idx(raw / "qmnist-test-labels-idx2-int", labels, 12)
    dataset = open_dataset("torchvision/QMNIST::test50k", root=tmp_path)
    assert dataset.targets.tolist() == [0, 1, 2]
    assert np.array_equal(np.asarray(dataset.load(1))[..., 0], images[10_001])


@pytest.mark.parametrize(
    ("source", "arguments"),
    [
        ("INaturalist::2021_valid", {"version": "2021_valid"}),
        ("Omniglot::evaluation", {"background": False}),
        ("Omniglot::background", {"background": True}),
        ("LSUN::val", {"classes": "val"}),
        ("Places365/small::val", {"small": True, "split": "val"}),
        ("Imagenette/160px::train", {"size": "160px", "split": "train"}),
        ("DTD/3::test", {"partition": 3, "split": "test"}),
        ("LFWPeople::test", {"split": "test"}),
        ("PhotoTour::test", {"train": False}),
        ("SEMEION", {}),
    ],
)
def test_what_a_set_is_asked_for(monkeypatch, tmp_path, source, arguments):
    """INaturalist::2021_valid was the training images under another name: its argument is not called split."""
    factory = getattr(torchvision.datasets, source.partition("::")[0].partition("/")[0])
    given = {}

    class Fake(factory):
        def __new__(cls, **settings):
            given.update(settings)
            return [(Image.new("L", (8, 8)), 1)]

    Fake.__signature__ = inspect.signature(factory)
    monkeypatch.setattr(torchvision.datasets, factory.__name__, Fake)
    assert open_dataset(f"torchvision/{source}", root=tmp_path).targets.tolist() == [1]
    offline = {"download": False} if "download" in inspect.signature(factory).parameters else {}
    assert given == {"root": str(tmp_path), **arguments, **offline}


def test_a_package_that_a_set_needs_is_named(monkeypatch, tmp_path):
    for name in ("h5py", "lmdb"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "bedroom_val_lmdb").mkdir()
    for source, package in (("PCAM::train", "h5py"), ("LSUN::val", "lmdb")):
        with pytest.raises(MissingPackageError, match=f"torchvision/{source} needs another package .*{package}"):
            open_dataset(f"torchvision/{source}", root=tmp_path)


def test_labels_are_read_from_the_items_where_there_is_no_list():
    assert hub.labels_of([("image", 2), ("image", 0)], "x").tolist() == [2, 0]


def test_torchvision_set_that_is_not_there_says_how_to_fetch_it(tmp_path):
    with pytest.raises(
        UserError, match=r"fetch it once with `from torchvision.datasets import CIFAR10; .*download=True"
    ):
        open_dataset("torchvision/CIFAR10::train", root=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("torchvision/CIFAR11::test", "Did you mean 'CIFAR10'"),
        ("torchvision/CIFAR10::val", "splits train and test, not 'val'"),
        ("torchvision/STL10::trian", "torchvision/STL10::trian cannot be opened .*Unknown value 'trian'"),
        ("torchvision/EMNIST::train", "several sets: name one, torchvision/EMNIST/NAME, of byclass, bymerge, balanced"),
        ("torchvision/EMNIST/letter::train", "no variant 'letter': use byclass, .*letters"),
        ("torchvision/CIFAR10/fine::train", "no variant 'fine': leave /fine out"),
        ("torchvision/EuroSAT::train", "no splits: leave ::train out, or part the whole by ::@train and ::@test"),
        ("torchvision/Omniglot::train", "splits background and evaluation, not 'train'"),
        ("torchvision/QMNIST::val", "cannot be opened .*Unknown value 'val'"),
        ("torchvision/INaturalist::2020", "cannot be opened .*Unknown value '2020'"),
        ("torchvision/FGVCAircraft/family::test", r"FGVCAircraft\('.*', annotation_level='family', split='test', dow"),
        ("torchvision/ImageNet::val", "torchvision does not fetch it: its documentation of ImageNet says"),
        ("torchvision/FakeData", "keeps no images on disk"),
    ],
)
def test_torchvision_mistakes(source, message, tmp_path):
    with pytest.raises(UserError, match=message):
        open_dataset(source, root=tmp_path)


@pytest.mark.parametrize("kind", ["hfds", "wds", "tfds"])
def test_missing_library_is_named(kind, monkeypatch):
    monkeypatch.setattr(hub.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="pip install"):
        open_dataset(f"{kind}/some-set::train")


class _Reader:
    class_to_idx = {"one": 1, "zero": 0}  # noqa: RUF012 (as timm's reader has it)

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return io.BytesIO(encoded(index)), index % 2

    def iter_targets(self):
        return (index % 2 for index in range(3))


@pytest.fixture
def create_dataset(monkeypatch):
    calls = []
    reader = _Reader()

    def fake(name, root, split):
        calls.append((name, root, split))
        if split == "broken":
            raise RuntimeError("no such\nsplit")
        if name.startswith("hfds"):
            return types.SimpleNamespace(reader=reader)
        stream = [(Image.open(io.BytesIO(encoded(index))), index % 2) for index in range(3)]

        class Stream(list):
            reader = types.SimpleNamespace(class_to_idx=None)

        return Stream(stream)

    monkeypatch.setattr(hub.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr("timm.data.create_dataset", fake)
    return calls


@pytest.mark.parametrize(("kind", "names"), [("hfds", ("zero", "one")), ("wds", None), ("tfds", None)])
def test_timm_loaders(kind, names, create_dataset, tmp_path):
    dataset = open_dataset(f"{kind}/owner/set::test", root=tmp_path)
    assert create_dataset == [(f"{kind}/owner/set", str(tmp_path), "test")]
    assert dataset.targets.tolist() == [0, 1, 0]
    assert dataset.class_names == names
    for index in (2, 0):
        assert np.array_equal(dataset.load(index), Image.open(io.BytesIO(encoded(index))))
    assert dataset.ids[2] == "test/000002"
    assert len(dataset.fingerprint()) == 32


def test_kept_images_outlive_a_copy_but_not_the_data_set(create_dataset):
    dataset = open_dataset("wds/set::test")
    folder = dataset.store.folder.name
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.load(0).size == (8, 8)
    del copy
    assert dataset.load(0).size == (8, 8)
    del dataset
    assert not __import__("pathlib").Path(folder).exists()


def test_errors_of_the_library_are_one_line(create_dataset):
    with pytest.raises(UserError, match=r"hfds/x::broken cannot be opened \(no such split\)"):
        open_dataset("hfds/x::broken")


def test_nothing_of_the_optional_libraries_is_imported_up_front():
    assert not {"datasets", "webdataset", "tensorflow_datasets"} & set(sys.modules)
