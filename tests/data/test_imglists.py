from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from ood_nc.data import ImageStream, open_dataset
from ood_nc.errors import UserError

from .conftest import encoded, put


def as_tensor(image):
    return torch.from_numpy(np.array(image))


@pytest.fixture
def root(tmp_path):
    return put(tmp_path, {"images/a/1.png": encoded(1), "images/b c.png": encoded(2), "lists/x/": b""})


def test_openood_list(root):
    (root / "lists/test.txt").write_text("a/1.png 3\nb c.png\t-1\n\n")
    dataset = open_dataset("lists/test.txt::images", root=root)
    assert dataset.ids == ("a/1.png", "b c.png")
    assert dataset.targets.tolist() == [3, -1]
    assert dataset.class_names is None and dataset.num_classes == 4
    assert dataset.load(1).size == (8, 8)


def test_paths_are_relative_to_the_list_by_default(root):
    (root / "images/list.txt").write_text("a/1.png 0\n")
    assert open_dataset(str(root / "images/list.txt")).load(0).size == (8, 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "No images in"),
        ("a/1.png", "line 1: expected `path label`"),
        ("a/1.png 0\na/1.png cat\n", "line 2: expected `path label`"),
        ("a/1.png -2", "got -2 in entry 0 .*leave out the samples without a class"),
        ("a/1.png 3000000000", "got 3000000000 in entry 0"),
        ("gone.png 0", r"No file .*gone.png .*list.txt::FOLDER"),
    ],
)
def test_mistakes_are_one_line(root, text, message):
    (root / "list.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        open_dataset("list.txt::images", root=root)


def test_a_list_that_is_no_text(root):
    (root / "list.txt").write_bytes(b"\xff\xfe\x80\x81")
    with pytest.raises(UserError, match=r"Cannot read the image list"):
        open_dataset("list.txt", root=root)


LINES = (
    "a/1.png 0\nb c.png 1\n",
    "a/1.png\t0\nb c.png\t1",
    "a/1.png  0\r\nb c.png \t 1\r\n",
    "\ufeffa/1.png 0\n\nb c.png 1",
)


@pytest.mark.parametrize("text", [*LINES, "a\\1.png 0\nb c.png 1\n"])
def test_score_and_data_sets_read_a_list_alike(root, text):
    (root / "images/list.txt").write_bytes(text.encode())
    dataset = open_dataset(str(root / "images/list.txt"))
    (batch,) = ImageStream([str(root / "images/list.txt")], as_tensor)
    assert list(dataset.ids) == batch.ids == ["a/1.png", "b c.png"]
    assert dataset.targets.tolist() == [0, 1]
    assert batch.errors == []
    assert all(dataset.load(index).size == (8, 8) for index in range(2))


def test_odd_names_are_read_by_both(root):
    names = ["x\u2028y.png", "x\u00a0y.png", "x\x0by.png", os.fsdecode(b"x\xe9.png"), "x 3 y.png", "back\\slash.png"]
    for name in names:
        (root / "images" / name).write_bytes(encoded(3))
    (root / "images/list.txt").write_bytes("".join(f"{name} 5\n" for name in names).encode("utf-8", "surrogateescape"))
    dataset = open_dataset(str(root / "images/list.txt"))
    (batch,) = ImageStream([str(root / "images/list.txt")], as_tensor)
    assert batch.errors == [] and list(dataset.ids) == batch.ids
    assert dataset.targets.tolist() == [5] * 6
    assert [dataset.load(index).size for index in range(6)] == [(8, 8)] * 6
    assert dataset.ids[0] == r"x\u2028y.png" and dataset.ids[3] == r"x\xe9.png"


def test_a_backslash_path_that_is_nowhere_says_what_was_tried(root):
    (root / "images/list.txt").write_text("a\\gone.png 0\n")
    with pytest.raises(UserError, match="nor with slashes for its backslashes"):
        open_dataset(str(root / "images/list.txt"))


@pytest.mark.parametrize("content", ["a/1.png 0\n".encode("utf-16"), b"a/1.png 0\n\0\0\0\n", b"x" * 200_000])
def test_no_text_is_one_line_and_one_row(root, content):
    (root / "images/list.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"Cannot read the image list .* no text in UTF-8"):
        open_dataset(str(root / "images/list.txt"))
    batches = list(ImageStream([str(root / "images/list.txt")], as_tensor))
    assert "no text in UTF-8" in batches[-1].errors[-1][1]


def test_an_ignore_value_is_no_class(root):
    (root / "images/list.txt").write_text("".join(f"a/1.png {label}\n" for label in (0, 1, 2, 255)))
    with pytest.raises(UserError, match=r"labels of .*list.txt must be in 0..2, got 255 in entry 3 .*leave out"):
        open_dataset(str(root / "images/list.txt"))
