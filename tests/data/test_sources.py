from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from ood_nc.data import list_datasets, open_dataset
from ood_nc.data.sources import locate
from ood_nc.errors import UserError

from .conftest import encoded, pack, put


def test_held_out_fifth(folder):
    root = folder({f"{name}/{index}.png": encoded(index) for name in "ab" for index in range(10)})
    train, test = (open_dataset(f"{root}::@{part}") for part in ("train", "test"))
    assert np.bincount(train.targets).tolist() == [8, 8]
    assert np.bincount(test.targets).tolist() == [2, 2]
    assert not set(train.ids) & set(test.ids)
    assert test.name.endswith("::@test")
    inner = open_dataset(f"{root}::a::@test")
    assert len(inner) == 2


@pytest.mark.parametrize("source", ["", "::train", "a::b::c"])
def test_unreadable_sources(source):
    with pytest.raises(UserError, match="Cannot read the data source"):
        open_dataset(source)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"")
    with pytest.raises(UserError, match="neither a folder nor an archive"):
        open_dataset("a.pt", root=tmp_path)


def test_missing_without_a_near_name_states_the_layout(tmp_path):
    with pytest.raises(UserError, match=r"No data at .*gone/x. Expected one folder per class"):
        open_dataset("gone/x", root=tmp_path)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a/b::train", "/data/a/b::train"),
        ("ninco::@test", "/data/ninco::@test"),
        ("list.txt::images", "/data/list.txt::/data/images"),
        ("list.txt::@test", "/data/list.txt::@test"),
        ("/abs::train", "/abs::train"),
        ("bundled/textures", "bundled/textures"),
        ("hfds/a/b::test", "hfds/a/b::test"),
        ("LIST.TXT::images", "/data/LIST.TXT::/data/images"),
        ("corrupted/fog-3/a/b::test", "corrupted/fog-3//data/a/b::test"),
        ("corrupted/mixed/bundled/textures", "corrupted/mixed/bundled/textures"),
        ("corrupted/fog-3", "corrupted/fog-3"),
        ("~/a::train", f"{Path.home()}/a::train"),
    ],
)
def test_locate(source, expected):
    assert locate(source, "/data") == expected


def test_list_names_every_form_and_every_bundled_set_opens():
    listed = list_datasets()
    assert {"FOLDER", "torchvision/NAME::train", "LIST.txt[::FOLDER]"} <= set(listed)
    bundled = [name for name in listed if name.startswith("bundled/")]
    assert len(bundled) == 8
    assert all(len(open_dataset(name)) > 100 for name in bundled)


@pytest.mark.parametrize("kind", ["images", "images.zip", "images.tar.gz", "list.txt"])
def test_images_are_found_from_another_working_folder(kind, tmp_path, monkeypatch):
    files = {"cat/0.png": encoded(1), "dog/0.png": encoded(2)}
    put(tmp_path / "images", files)
    (tmp_path / "list.txt").write_text("images/cat/0.png 0\nimages/dog/0.png 1\n")
    if kind.startswith("images."):
        pack(tmp_path / kind, files)
    monkeypatch.chdir(tmp_path)
    dataset = open_dataset(kind)
    fingerprint = open_dataset(kind).fingerprint()
    monkeypatch.chdir("/")
    copy = pickle.loads(pickle.dumps(dataset))  # as a loading process gets it
    assert copy.load(1).size == dataset.load(1).size == (8, 8)
    assert copy.fingerprint() == fingerprint
