from __future__ import annotations

import numpy as np
import pytest

from ood_nc.config import DataConfig
from ood_nc.data import load_data, load_suite
from ood_nc.errors import UserError

from .conftest import encoded, put


@pytest.fixture
def root(tmp_path):
    files = {}
    seed = 0
    for split, count in (("train", 20), ("test", 10)):
        for name in ("cat", "dog"):
            for index in range(count):
                files[f"id/{split}/{name}/{index}.png"] = encoded(seed := seed + 1)
    for index in range(8):
        files[f"ood/{index}.png"] = encoded(1000 + index)
    for index in range(2):
        files[f"ood/copy{index}.png"] = files[f"id/test/cat/{index}.png"]
    for name in ("dog", "rose", "tulip"):
        for index in range(10):
            files[f"transfer/{name}/{index}.png"] = encoded(seed := seed + 1)
    return put(tmp_path, files)


def config(root, **changes):
    settings = {
        "root": str(root),
        "train": "id::train",
        "test": "id::test",
        "val_fraction": 0.25,
        "ood": {"mixed": {"source": "ood", "group": "near"}, "plants": "transfer"},
        "transfer": {"plants": "transfer"},
    }
    return DataConfig(**{**settings, **changes})


def test_everything_in_its_place(root):
    data = load_data(config(root), seed=0)
    assert (len(data.id_train), len(data.id_val), len(data.id_test)) == (30, 10, 20)
    assert np.bincount(data.id_val.targets).tolist() == [5, 5]
    assert not set(data.id_train.ids) & set(data.id_val.ids)
    assert data.id_train.class_names == ("cat", "dog")
    assert data.groups == {"mixed": "near", "plants": "far"}
    train, test = data.transfer["plants"]
    assert np.bincount(train.targets).tolist() == [8, 8, 8]
    assert np.bincount(test.targets).tolist() == [2, 2, 2]
    assert not set(train.ids) & set(test.ids)
    assert "2 of 10 images of mixed are also in ID test (first: copy0.png)" in data.notes
    assert "plants: 1 of its classes shared with ID by name (dog)" in data.notes


def test_remarks_of_a_source_come_once(root):
    put(root, {"id/train/.cache/x": b"", "transfer/.cache/x": b""})
    notes = load_data(config(root, ood={})).notes
    assert notes == [
        "id::train: 1 hidden entry ignored (train/.cache)",
        "transfer: 1 hidden entry ignored (.cache)",
    ]


def test_seed_moves_the_validation_split_and_nothing_else(root):
    limited = config(root, limit=8, eval_limit=5)
    one, two = (load_data(limited, seed=seed) for seed in (0, 1))
    assert one.id_val.ids != two.id_val.ids
    assert set(one.id_train.ids) | set(one.id_val.ids) == set(two.id_train.ids) | set(two.id_val.ids)
    assert one.id_test.ids == two.id_test.ids and len(one.id_test) == 5
    assert one.ood["mixed"].ids == two.ood["mixed"].ids
    assert len(one.id_train) + len(one.id_val) == 16


def test_classes_are_matched_by_name(root):
    put(root, {"other/test/dog/1.png": encoded(5000), "other/test/zebra/": b""})
    data = load_data(config(root, test="other::test"))
    assert data.id_test.targets.tolist() == [1]
    put(root, {"wrong/test/dog/1.png": encoded(1), "wrong/test/zebra/1.png": encoded(2)})
    with pytest.raises(UserError, match="classes that are not known: zebra"):
        load_data(config(root, test="wrong::test"))


def test_own_validation_set_and_no_test_set(root):
    data = load_data(config(root, val="id::test", test=None))
    assert (len(data.id_train), len(data.id_val), data.id_test) == (40, 20, None)
    assert data.id_val.class_names == data.id_train.class_names


def test_broken_training_image_stops_before_the_first_epoch(root):
    (root / "id/train/cat/3.png").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"cannot read 1 image: train/cat/3.png .*--data.skip_broken") as error:
        load_data(config(root))
    assert "\n" not in str(error.value)
    data = load_data(config(root, skip_broken=True))
    assert len(data.id_train) + len(data.id_val) == 39
    assert any("1 of 40 images cannot be read" in note for note in data.notes)
    assert len(load_data(config(root), check_images=False).id_train) == 30


def test_what_training_held_out_is_what_an_evaluation_holds_out(root):
    """The split was drawn anew without the broken image: an evaluation chose on images that were trained on."""
    (root / "id/train/cat/3.png").write_bytes(b"damaged")
    trained, evaluated = (load_data(config(root, skip_broken=True), check_images=check) for check in (True, False))
    assert set(trained.id_train.ids) == set(evaluated.id_train.ids) - {"train/cat/3.png"}
    assert set(trained.id_val.ids) == set(evaluated.id_val.ids) - {"train/cat/3.png"}


def test_broken_validation_image_stops_before_the_first_epoch(root):
    (root / "id/test/dog/3.png").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"id::test: cannot read 1 image: test/dog/3.png .*--data.skip_broken"):
        load_data(config(root, val="id::test", test=None))
    data = load_data(config(root, val="id::test", test=None, skip_broken=True))
    assert (len(data.id_train), len(data.id_val)) == (40, 19)
    assert "id::test: 1 of 20 images cannot be read and are left out (test/dog/3.png: not an image" in " ".join(
        data.notes
    )


def test_broken_evaluation_image_is_left_to_the_evaluation(root):
    (root / "ood/3.png").write_bytes(b"damaged")
    assert len(load_data(config(root)).ood["mixed"]) == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": "ood"}, r"data.train: ood has images without labels; expected one folder per class"),
        ({"test": "ood"}, r"data.test: ood has images without labels"),
        ({"transfer": {"x": "ood"}}, r"data.transfer: ood::@train has images without labels"),
        ({"ood": {"x": "gone"}}, "No data at"),
    ],
)
def test_mistakes_are_one_line(root, changes, message):
    with pytest.raises(UserError, match=message):
        load_data(config(root, **changes))


def test_some_images_without_a_label_are_counted(root):
    (root / "some.txt").write_text("".join(f"id/train/cat/{index}.png {index % 3 - 1}\n" for index in range(9)))
    with pytest.raises(UserError, match=r"data.train: 3 of 9 images of some.txt have no label \(-1\): leave them out"):
        load_data(config(root, train="some.txt"))


def test_every_set_is_read_by_the_pixel_rules_of_the_run(root):
    data = load_data(config(root, pixels={"value_range": [0, 4095]}))
    sets = [data.id_train, data.id_val, data.id_test, *data.ood.values(), *data.transfer["plants"]]
    assert {dataset.pixels.value_range for dataset in sets} == {(0.0, 4095.0)}


def test_given_transfer_splits_share_their_classes(root):
    put(root, {"t/train/a/1.png": encoded(1), "t/train/b/1.png": encoded(2), "t/test/b/1.png": encoded(3)})
    data = load_data(config(root, transfer={"t": {"train": "t::train", "test": "t::test"}}))
    assert data.transfer["t"][1].targets.tolist() == [1]


def test_empty_ood_folder_is_kept_as_an_empty_set(root):
    (root / "nothing").mkdir()
    data = load_data(config(root, ood={"nothing": "nothing", "mixed": "ood"}, eval_limit=4))
    assert data.ood["nothing"] is None and len(data.ood["mixed"]) == 4
    assert any(note.startswith("nothing: No images in") for note in data.notes)


def test_suite_is_added_and_named_sets_win(root):
    data = load_data(config(root, suite="bundled", ood={"textures": {"source": "ood", "group": "near"}}))
    assert data.groups == {"digits-near": "near", "textures": "near"}
    assert len(data.ood["textures"]) == 10
    assert set(data.transfer) == {"digits-transfer", "textures-transfer", "plants"}


def test_unnamed_classes_get_their_index(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x_train=images, y_train=np.arange(40) % 3, x_test=images[:3] // 2, y_test=np.arange(3))
    data = load_data(DataConfig(root=str(tmp_path), train="a.npz::train", test="a.npz::test"))
    assert data.id_train.class_names == ("0", "1", "2")
    assert data.id_test.targets.tolist() == [0, 1, 2]


def test_bundled_suite_is_clean():
    data = load_data(DataConfig(**load_suite("bundled")), seed=0)
    assert data.notes == []
    assert data.groups == {"digits-near": "near", "textures": "far"}
    assert set(data.transfer) == {"digits-transfer", "textures-transfer"}
