"""SVHN's full numbers, in a small file that is laid out as theirs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ood_nc.config import DataConfig, MultilabelConfig
from ood_nc.data import load_label_sets
from ood_nc.data.house_numbers import read_house_numbers
from ood_nc.errors import UserError

h5py = pytest.importorskip("h5py")
NUMBERS = [[1], [2, 1], [10, 5], [1], [3, 3], [1, 2, 3], [4, 3, 2, 1], [1]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """MATLAB 7.3: a column is a dataset of references, but the number itself where there is one."""
    with h5py.File(tmp_path / "digitStruct.mat", "w") as file:
        reference = h5py.special_dtype(ref=h5py.Reference)
        columns = {
            name: file.create_dataset(f"digitStruct/{name}", (len(NUMBERS), 1), reference) for name in ("name", "bbox")
        }
        for index, digits in enumerate(NUMBERS):
            name = f"{index + 1}.png"
            Image.new("RGB", (20 + index, 12), (30 * index, 0, 0)).save(tmp_path / name)
            codes = np.array([[ord(letter)] for letter in name], dtype=np.uint16)
            columns["name"][index, 0] = file.create_dataset(f"#refs#/name{index}", data=codes).ref
            box = file.create_group(f"#refs#/box{index}")
            if len(digits) == 1:
                box["label"] = np.array([digits], dtype=np.float64)
            else:
                labels = box.create_dataset("label", (len(digits), 1), reference)
                for place, digit in enumerate(digits):
                    labels[place, 0] = file.create_dataset(f"#refs#/{index}-{place}", data=[[float(digit)]]).ref
            columns["bbox"][index, 0] = box.ref
    return tmp_path / "digitStruct.mat"


def test_names_and_digits(path: Path) -> None:
    assert read_house_numbers(path) == [(f"{index + 1}.png", digits) for index, digits in enumerate(NUMBERS)]


def test_label_sets_are_those_of_nine_digits_up_to_the_counts(path: Path) -> None:
    config = DataConfig(root=str(path.parent), train=path.name, test=path.name, val=path.name)
    settings = MultilabelConfig(counts={1: [2], 2: [9], 3: [9]}, test_counts={2: [9]})
    sets = load_label_sets(config, settings, seed=0)
    shown = [[digit for digit, there in enumerate(row, 1) if there] for row in sets.id_train.label_sets]
    assert shown == [[1], [1, 2], [1], [3], [1, 2, 3]]  # a zero, four labels and the third "1" are left out
    assert sets.id_train.ids == ("1.png", "2.png", "4.png", "5.png", "6.png")
    assert sets.id_train.class_names == tuple("123456789") and sets.id_train.load(1).size == (21, 12)
    assert sets.id_test is not None and sets.id_test.ids == ("2.png",)


def test_other_files_are_refused_in_one_line(path: Path, tmp_path: Path) -> None:
    config = DataConfig(root=str(path.parent), train=path.name)
    with pytest.raises(UserError, match="no image has a label set"):
        load_label_sets(config, MultilabelConfig(counts={1: [0]}), seed=0)
    (tmp_path / "text.mat").write_text("no")
    with pytest.raises(UserError, match="is no digitStruct"):
        read_house_numbers(tmp_path / "text.mat")
    with h5py.File(path, "a") as file:
        del file["digitStruct/bbox"]
    with pytest.raises(UserError, match="is no digitStruct"):
        read_house_numbers(path)
