from __future__ import annotations

import pytest

from ood_nc.data import open_dataset
from ood_nc.errors import UserError

from .conftest import encoded, put


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
        ("a/1.png -2", "-1 stands for none"),
        ("gone.png 0", r"No file .*gone.png .*list.txt::FOLDER"),
    ],
)
def test_mistakes_are_one_line(root, text, message):
    (root / "list.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        open_dataset("list.txt::images", root=root)


def test_a_list_that_is_no_text(root):
    (root / "list.txt").write_bytes(b"\xff\xfe\x80\x81")
    with pytest.raises(UserError, match="Cannot read the image list"):
        open_dataset("list.txt", root=root)
