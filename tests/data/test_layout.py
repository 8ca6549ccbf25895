from __future__ import annotations

import pytest

from ood_nc.data import open_dataset, scan
from ood_nc.data.layout import read_layout, walk
from ood_nc.errors import UserError

from .conftest import encoded


def test_hidden_and_empty_folders_do_not_shift_the_classes(folder):
    root = folder(
        {"cat/1.png": encoded(1), "dog/1.png": encoded(2), ".ipynb_checkpoints/1.png": encoded(3), "empty/": b""}
    )
    dataset = open_dataset(str(root))
    assert dataset.class_names == ("cat", "dog", "empty")
    assert dataset.targets.tolist() == [0, 1]
    lines = scan(dataset).lines()
    assert len(lines) == 2
    assert "1 hidden entry ignored (.ipynb_checkpoints)" in lines[0]
    assert "class 'empty' has no images" in lines[1]


def test_wrong_path_is_one_line_with_the_path(tmp_path):
    (tmp_path / "flowers").mkdir()
    with pytest.raises(UserError) as error:
        open_dataset("flowrs", root=tmp_path)
    assert str(tmp_path / "flowrs") in str(error.value)
    assert "Did you mean 'flowers'?" in str(error.value)
    assert "\n" not in str(error.value)


def test_no_images_names_path_and_layout(folder):
    root = folder({"a/notes.txt": b"x", "b/": b""})
    with pytest.raises(UserError, match=r"No images in .*images: expected one folder per class"):
        open_dataset(str(root))


@pytest.mark.parametrize("inner", ["train", "data/train"])
def test_split_is_found_also_inside_the_only_folder(animals, folder, inner):
    dataset = open_dataset(f"{folder(animals)}::{inner}")
    assert dataset.class_names == ("cat", "dog")
    assert dataset.targets.tolist() == [0] * 4 + [1] * 4
    assert dataset.ids[0] == "data/train/cat/0.png"


def test_splits_without_a_choice_are_an_error_that_names_them(animals, folder):
    with pytest.raises(UserError, match="holds the splits test, train: choose one"):
        open_dataset(str(folder(animals)))
    with pytest.raises(UserError, match=r"choose one, e\.g\. .*images::data/train"):
        open_dataset(f"{folder({})}::data")


def test_unknown_split_says_what_there_is(animals, folder):
    with pytest.raises(UserError, match=r"No folder 'trian'.*Did you mean 'train'"):
        open_dataset(f"{folder(animals)}::trian")
    with pytest.raises(UserError, match=r"No folder 'validation'.*It holds test, train"):
        open_dataset(f"{folder({})}::validation")


def test_only_folder_with_the_classes_is_entered(folder):
    dataset = open_dataset(
        str(folder({"flowers/rose/1.jpg": b"", "flowers/tulip/1.jpg": b"", "flowers/.DS_Store": b""}))
    )
    assert dataset.class_names == ("rose", "tulip")
    assert dataset.hidden == ("flowers/.DS_Store",)
    assert "read from inside flowers/" in dataset.notes


def test_one_class_stays_a_class(folder):
    assert open_dataset(str(folder({"rose/1.jpg": b"", "rose/2.jpg": b""}))).class_names == ("rose",)


def test_class_folders_may_be_deeper(folder):
    dataset = open_dataset(str(folder({"latin/a/1.png": b"", "latin/b/1.png": b"", "greek/a/1.png": b""})))
    assert dataset.class_names == ("greek", "latin")
    assert dataset.targets.tolist() == [0, 1, 1]


def test_flat_folder_has_no_labels_at_any_depth(folder):
    dataset = open_dataset(str(folder({"1.png": b"", "deep/er/2.JPG": b"", "deep/3.webp": b"", "list.csv": b""})))
    assert dataset.class_names is None
    assert dataset.targets.tolist() == [-1, -1, -1]
    assert dataset.ids == ("1.png", "deep/3.webp", "deep/er/2.JPG")
    assert any("1 images lie beside its folders (first: 1.png)" in note for note in dataset.notes)
    assert any("1 file that is no image ignored (.csv)" in note for note in dataset.notes)


def test_a_link_to_a_folder_above_ends(folder):
    root = folder({"cat/1.png": b"", "dog/1.png": b""})
    (root / "cat" / "loop").symlink_to(root)
    assert walk(root)[0] == ["cat/1.png", "dog/1.png"]


def test_classes_do_not_depend_on_the_order_of_the_entries():
    files = ["b/1.png", "a/2.png", "a/1.png"]
    one, two = (read_layout(entries, [], "x") for entries in (files, files[::-1]))
    assert one.names == two.names == ("a/1.png", "a/2.png", "b/1.png")
    assert one.class_names == two.class_names == ("a", "b")


def test_a_dot_inside_a_name_hides_nothing():
    layout = read_layout(["v1.0/a.b.png", "v2.0/__MACOSX_like.png"], [], "x")
    assert layout.class_names == ("v1.0", "v2.0")
    assert layout.hidden == ()
