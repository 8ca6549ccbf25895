from __future__ import annotations

import os

import pytest

from ood_nc.data import open_dataset, scan
from ood_nc.data.folders import walk
from ood_nc.data.layout import read_layout
from ood_nc.errors import UserError

from .conftest import encoded, put


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


@pytest.mark.parametrize("names", [("Train", "Test"), ("TRAIN", "TEST", "VAL"), ("train", "test", "meta")])
def test_splits_are_no_classes_whatever_their_case_and_what_lies_beside_them(folder, names):
    root = folder({f"{name}/{kind}/0.png": encoded(1) for name in names for kind in ("cat", "dog")})
    with pytest.raises(UserError, match=rf"holds the splits {names[1]}, {names[0]}.*: choose one") as error:
        open_dataset(str(root))
    assert ("::. takes every folder for a class, meta too" in str(error.value)) == ("meta" in names)
    assert open_dataset(f"{root}::{names[0]}").class_names == ("cat", "dog")
    assert open_dataset(f"{root}::.").class_names == tuple(sorted(names))


def test_one_folder_that_is_called_as_a_split_is_a_class_among_others(folder):
    root = folder({f"{name}/0.png": encoded(1) for name in ("bus", "car", "train")})
    assert open_dataset(str(root)).class_names == ("bus", "car", "train")


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
    assert dataset.notes == ("read from inside flowers/", "1 hidden entry ignored (flowers/.DS_Store)")


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
    assert any("1 file that is no image ignored (.csv; list.csv)" in note for note in dataset.notes)


def test_a_link_to_a_folder_above_ends(folder):
    root = folder({"cat/1.png": b"", "dog/1.png": b""})
    (root / "cat" / "loop").symlink_to(root)
    assert [found.path for found in walk(str(root)) if not found.is_folder] == ["cat/1.png", "dog/1.png"]


def test_classes_do_not_depend_on_the_order_of_the_entries():
    files = ["b/1.png", "a/2.png", "a/1.png"]
    one, two = (read_layout(entries, [], "x") for entries in (files, files[::-1]))
    assert one.names == two.names == ("a/1.png", "a/2.png", "b/1.png")
    assert one.class_names == two.class_names == ("a", "b")


def test_a_dot_inside_a_name_hides_nothing():
    layout = read_layout(["v1.0/a.b.png", "v2.0/__MACOSX_like.png"], [], "x")
    assert layout.class_names == ("v1.0", "v2.0")
    assert layout.notes == ()


class TestLinks:
    def test_two_names_of_one_folder_both_hold_its_images(self, folder):
        root = folder({"real_cat/1.png": encoded(1), "real_cat/2.png": encoded(2), "dog/1.png": encoded(3)})
        (root / "cat").symlink_to("real_cat")
        dataset = open_dataset(str(root))
        assert dataset.class_names == ("cat", "dog", "real_cat")
        assert dataset.targets.tolist() == [0, 0, 1, 2, 2]
        assert "real_cat is the folder cat again: its images are there under both names" in dataset.notes
        assert len(scan(dataset).duplicates) == 2

    def test_a_split_that_is_a_link_to_another(self, folder):
        files = {f"{split}/{name}/{i}.png": b"" for split in ("train", "test") for name in "ab" for i in range(3)}
        root = folder(files)
        (root / "val").symlink_to("test")
        assert [len(open_dataset(f"{root}::{split}")) for split in ("train", "test", "val")] == [6, 6, 6]
        assert open_dataset(f"{root}::val").notes == (), "the other name is outside of what is read"

    def test_a_class_that_leads_out_of_the_folder(self, folder, tmp_path):
        put(tmp_path, {"elsewhere/1.png": b""})
        root = folder({"dog/1.png": b""})
        (root / "cat").symlink_to(tmp_path / "elsewhere")
        (root / "gone").symlink_to(tmp_path / "nowhere")
        (root / "self").symlink_to("self")
        dataset = open_dataset(str(root))
        assert dataset.class_names == ("cat", "dog")
        assert set(dataset.passed_over) == {"gone", "self"}

    def test_links_among_each_other_end_in_one_line(self, folder):
        root = folder({f"{index}/1.png": b"" for index in range(9)})
        for index in range(9):
            for other in range(9):
                (root / str(index) / f"to{other}").symlink_to(root / str(other))
        with pytest.raises(UserError, match="over 1000 names lead to it"):
            open_dataset(str(root))


class TestNames:
    composed, decomposed = "caf\u00e9", "cafe\u0301"

    def test_unicode_forms_of_one_name_are_one_class(self, folder):
        files = {f"{self.composed}/1.png": b"", f"{self.decomposed}/2.png": b"", "dog/1.png": b""}
        dataset = open_dataset(str(folder(files)))
        assert dataset.class_names == (self.composed, "dog")
        assert sorted(dataset.targets.tolist()) == [0, 0, 1]
        assert f"2 folders are named {self.composed!r} in different Unicode forms: one class" in dataset.notes

    def test_a_set_from_another_system_has_the_same_classes(self, tmp_path):
        one = open_dataset(str(put(tmp_path / "one", {f"{self.composed}/1.png": b"", "dog/1.png": b""})))
        two = open_dataset(str(put(tmp_path / "two", {f"{self.decomposed}/1.png": b"", "dog/1.png": b""})))
        assert one.class_names == two.class_names
        assert two.load is not None and "1.png" in two.ids[0]

    def test_case_alone_keeps_classes_apart_and_is_noted(self, folder):
        dataset = open_dataset(str(folder({"Cat/1.png": b"", "cat/1.png": b"", "dog/1.png": b""})))
        assert dataset.class_names == ("Cat", "cat", "dog")
        assert "classes 'Cat' and 'cat' differ in case alone: they are kept apart" in dataset.notes

    def test_bytes_that_are_no_text_become_text(self, folder):
        latin = os.fsdecode("caf\u00e9".encode("latin-1"))
        root = folder({f"{latin}/{latin}.png": encoded(1), "dog/a\nb.png": encoded(2)})
        (root / "dog" / f"{latin}.txt").write_bytes(b"")
        dataset = open_dataset(str(root))
        assert dataset.ids == (r"caf\xe9/caf\xe9.png", r"dog/a\x0ab.png")
        assert dataset.class_names == (r"caf\xe9", "dog")
        assert dataset.load(0).size == dataset.load(1).size == (8, 8)
        text = repr((dataset.ids, dataset.class_names, dataset.notes, dataset.passed_over, scan(dataset).lines()))
        assert text.encode("utf-8")


class TestOneClass:
    def test_is_the_first_folder_whatever_lies_below(self, folder):
        assert open_dataset(str(folder({"cat/a/1.png": b"", "cat/b/c/2.png": b""}))).class_names == ("a", "b")
        assert open_dataset(f"{folder({})}::.").class_names == ("cat",)

    def test_in_a_row_of_folders(self, folder):
        dataset = open_dataset(str(folder({"cat/session/1.png": b"", "cat/session/2.png": b""})))
        assert dataset.class_names == ("cat",)
        assert dataset.notes == ()

    def test_is_never_a_split(self, folder):
        root = folder({"pets/train/cat/session/1.png": b""})
        for source in (root, f"{root}::train", f"{root}::pets/train"):
            assert open_dataset(str(source)).class_names == ("cat",)
