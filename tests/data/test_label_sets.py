"""Composed images against their parts, tables against what was written, and what cannot be read."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from ood_nc.config import DataConfig, MultilabelConfig
from ood_nc.data import ImageDataset, load_label_sets
from ood_nc.data.label_sets import compose, read_table
from ood_nc.data.stores import ArrayStore
from ood_nc.errors import UserError


@pytest.fixture
def digits():
    """Four labels of 20 images each; every image of label k is full of the value 50 (k + 1)."""
    targets = np.repeat(np.arange(4), 20)
    images = (50 * (targets + 1)).astype(np.uint8)[:, None, None] * np.ones((1, 6, 6), dtype=np.uint8)
    names = ["a", "b", "c", "d"]
    return ImageDataset(
        ArrayStore(images), name="digits", ids=list(map(str, range(80))), targets=targets, class_names=names
    )


def test_counts_and_label_sets_are_as_asked(digits):
    dataset = compose(digits, {1: (5,), 2: (8, 2, 1)}, place="corners", seed=0, name="composed")
    found = Counter(tuple(row) for row in dataset.label_sets.tolist())
    assert [found[tuple(np.eye(4, dtype=int)[k])] for k in range(4)] == [5] * 4
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    sizes = [found[tuple(int(k in pair) for k in range(4))] for pair in pairs]
    assert sizes == [8, 2, 1, 8, 2, 1] and len(dataset) == 42 and dataset.num_classes == 4
    assert len(set(dataset.targets.tolist())) == 10
    _, labels = dataset[20]
    assert labels.tolist() == [1, 1, 0, 0] and labels.dtype == torch.float32


@pytest.mark.parametrize("place", ["corners", "shift"])
def test_every_label_of_a_set_can_be_seen(digits, place):
    dataset = compose(digits, {1: (3,), 2: (3,), 3: (3,)}, place=place, seed=1, name="composed")
    for index in range(len(dataset)):
        pixels = np.asarray(dataset.load(index))[..., 0]
        assert pixels.shape == (12, 12)
        values = {50 * (k + 1) for k in np.flatnonzero(dataset.label_sets[index])}
        seen = set(np.unique(pixels).tolist()) - {0}
        assert seen <= values and max(seen) == max(values)
        if place == "corners" and len(values) == 2:  # opposite corners: only the roll can make them meet
            assert seen == values


def test_it_is_the_same_again_and_another_seed_is_another(digits):
    one, two, three = (compose(digits, {2: (4,)}, place="shift", seed=seed, name="x") for seed in (0, 0, 1))
    assert one.fingerprint() == two.fingerprint() != three.fingerprint()
    part = one.subset([3, 1])
    assert part.label_sets.tolist() == one.label_sets[[3, 1]].tolist() and part.fingerprint() != one.fingerprint()
    marked = one.subset(one.label_sets[:, 0] == 1)
    assert marked.label_sets[:, 0].all() and len(marked) == len(marked.ids) == one.label_sets[:, 0].sum()


def test_tables_of_both_kinds_are_read(tmp_path):
    for name in ("x.png", "y.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "t.csv").write_text("path,labels\nx.png,cat|dog\ny.png,dog\n")
    pa.parquet.write_table(pa.table({"path": ["x.png"], "labels": [["dog"]]}), tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.csv")
    assert table.class_names == ("cat", "dog") and table.label_sets.tolist() == [[1, 1], [0, 1]]
    assert table.load(1).size == (4, 4)
    other = read_table(tmp_path / "t.parquet", label_names=table.class_names)
    assert other.label_sets.tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,labels\nx,a\n", "needs the columns path and labels; it has file, labels"),
        ("path,labels\nx.png,\n", "x.png has no label"),
        ("path,labels\nx.png,cat\nx.png,dog\n", r"x.png stands in several rows: .* joined by \|"),
        ("path,labels\nx.png,cat\n./x.png,dog\n", r"x.png stands in several rows: .* joined by \|"),
        ("path,labels\nx.png,cat\n,dog\n", "row 2 has no path"),
        ("path,labels,labels\nx.png,cat,dog\n", "needs the columns path and labels; it has path, labels, labels"),
        ("path,labels\nx.png,1|0|1\ny.png,0|1|0\n", "labels holds 0 or 1 for each label: give the labels"),
        ("path,labels\nx.png,1|0\ny.png,0|1\n", "labels holds 0 or 1 for each label: give the labels"),
        ("path,labels\nx.png,bird\n", "the label 'bird', which the training images do not have"),
    ],
)
def test_a_bad_table_is_one_line(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_table(tmp_path / "t.csv", label_names=["cat"])
    with pytest.raises(UserError, match="Cannot read"):
        read_table(tmp_path / "none.csv")


def test_lists_of_a_table_have_no_label_none_and_a_name_in_two_forms_is_one(tmp_path):
    """What was null in a list was a label of its own, and a table of indicators gave all images all labels."""
    columns = {"path": ["x.png", "y.png", "z.png"], "labels": [["caf\u00e9", None], ["cafe\u0301", "tea"], ["tea"]]}
    pa.parquet.write_table(pa.table(columns), tmp_path / "t.PARQUET")
    table = read_table(tmp_path / "t.PARQUET")
    assert table.class_names == ("caf\u00e9", "tea") and table.label_sets.tolist() == [[1, 0], [1, 1], [0, 1]]
    pa.parquet.write_table(pa.table({"path": ["x", "y"], "labels": [[0, 1], [0, 1]]}), tmp_path / "n.parquet")
    assert read_table(tmp_path / "n.parquet").label_sets.tolist() == [[1, 1], [1, 1]]  # two labels with these names
    pa.parquet.write_table(pa.table({"path": ["x", "y"], "labels": [[0, 1, 0], [1, 1, 0]]}), tmp_path / "i.parquet")
    with pytest.raises(UserError, match="labels holds 0 or 1 for each label"):
        read_table(tmp_path / "i.parquet")


def test_what_cannot_be_composed_is_one_line(digits):
    with pytest.raises(UserError, match="corners or shift"):
        compose(digits, {1: (1,)}, place="grid", seed=0, name="x")
    with pytest.raises(UserError, match="only those of 1 to 3"):
        compose(digits, {4: (1,)}, place="shift", seed=0, name="x")
    with pytest.raises(UserError, match="label b has no image"):
        compose(digits.subset(np.flatnonzero(digits.targets != 1)), {1: (1,)}, place="shift", seed=0, name="x")


def test_labels_are_those_of_the_training_images_by_name(tmp_path):
    """Test folders of other classes were numbered by themselves: their foxes were measured as cats."""
    folders = {"train": ("cat", "dog"), "more": ("ant", "cat", "dog"), "fewer": ("dog",)}
    for split, name in ((split, name) for split, names in folders.items() for name in names):
        (tmp_path / split / name).mkdir(parents=True)
        for index in range(3 if name != "ant" else 0):
            Image.new("RGB", (4, 4), (index, 0, 0)).save(tmp_path / split / name / f"{index}.png")

    def opened(test):
        data = DataConfig(root=str(tmp_path), train="train", test=test)
        return load_label_sets(data, MultilabelConfig(counts={1: [3]}, test_counts={1: [2]}), seed=0)

    test = opened("more").id_test
    assert test.class_names == ("cat", "dog") and test.label_sets.tolist() == 2 * [[1, 0]] + 2 * [[0, 1]]
    assert [name.partition("/")[0] for name in test.ids] == ["cat", "cat", "dog", "dog"]
    with pytest.raises(UserError, match="fewer: label cat has no image"):
        opened("fewer")


def test_labels_and_paths_of_a_table_are_text(tmp_path):
    """Alone in their row in the test table, labels such as 01 were read as numbers: the label '1' was not known."""
    (tmp_path / "train.csv").write_text("path,labels\n0010,01|02\n0020,02\n")
    (tmp_path / "test.csv").write_text("path,labels\n0010,01\n0020,02\n")
    train = read_table(tmp_path / "train.csv")
    test = read_table(tmp_path / "test.csv", label_names=train.class_names)
    assert test.ids == ("0010", "0020") and test.label_sets.tolist() == [[1, 0], [0, 1]]


def test_a_table_of_broken_images_stops_before_the_first_epoch(tmp_path, caplog):
    """Of a path that was not there a run heard when it drew it; skip_broken did nothing."""
    for index in range(4):
        Image.new("RGB", (4, 4), (index, 0, 0)).save(tmp_path / f"{index}.png")
    rows = "".join(f"{index}.png,{'cat|dog' if index % 2 else 'dog'}\n" for index in range(5))
    (tmp_path / "t.csv").write_text(f"path,labels\n{rows}")
    data = DataConfig(root=str(tmp_path), train="t.csv", test="t.csv", val_fraction=0.5)
    with pytest.raises(UserError, match=r"t.csv: cannot read 1 image: 4.png \(no such file\): .*--data.skip_broken"):
        load_label_sets(data, MultilabelConfig(), seed=0)
    sets = load_label_sets(data.model_copy(update={"skip_broken": True}), MultilabelConfig(), seed=0)
    assert (len(sets.id_train), len(sets.id_val), sets.id_test.label_sets.tolist()) == (2, 2, 2 * [[0, 1], [1, 1]])
    assert "1 of 5 images cannot be read and are left out (4.png: no such file)" in caplog.text


def test_the_ood_sets_of_a_suite_are_there_too():
    """A suite that a run on label sets named was passed over without a word."""
    own = {
        "test": None,
        "limit": 10,
        "eval_limit": 5,
        "ood": {"textures": {"source": "bundled/textures", "group": "near"}},
    }
    sets = load_label_sets(DataConfig(suite="bundled", **own), MultilabelConfig(counts={1: [4]}), seed=0)
    assert "digits-near" in sets.ood and sets.groups["digits-near"] == "near" and sets.groups["textures"] == "near"


def test_limits_hold_for_tables_and_for_what_is_composed(tmp_path):
    rows = [f"{number}.png,{labels}" for number, labels in enumerate(["a"] * 9 + ["b"] * 9 + ["a|b"] * 3)]
    for number in range(len(rows)):
        Image.new("L", (4, 4), number).save(tmp_path / f"{number}.png")
    (tmp_path / "t.csv").write_text("\n".join(["path,labels", *rows]))
    counts = MultilabelConfig(counts={1: [4]}, test_counts={1: [4]})
    for train, test, of_train in (("t.csv", "t.csv", 11), ("bundled/digits-id::train", "bundled/digits-id::test", 20)):
        limits = {"limit": 4, "eval_limit": 2, "val_fraction": 0.3}
        root = str(tmp_path) if train == "t.csv" else None
        found = load_label_sets(DataConfig(root=root, train=train, test=test, **limits), counts, seed=0)
        held_out = -(-of_train * 3 // 10)
        assert [len(part) for part in (found.id_train, found.id_val, found.id_test)] == [of_train - held_out, 2, 2]
