from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from ood_nc.data import eval_transform, open_dataset
from ood_nc.errors import UserError

GREY = np.random.default_rng(0).integers(0, 256, (5, 6, 7), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 1, 0], dtype=np.uint8)


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_mnist_layout(tmp_path):
    path = save(tmp_path / "m.npz", x_train=GREY, y_train=LABELS, x_test=GREY[:2], y_test=LABELS[:2])
    train, test = (open_dataset(f"{path}::{split}") for split in ("train", "test"))
    assert (len(train), len(test)) == (5, 2)
    assert train.targets.tolist() == LABELS.tolist()
    assert train.class_names is None and train.num_classes == 3
    assert np.array_equal(np.asarray(train.load(3)), np.repeat(GREY[3][..., None], 3, axis=2))
    assert train.ids[3] == "train/000003"
    with pytest.raises(UserError, match=r"Choose a split: m.npz::test, m.npz::train"):
        open_dataset(str(path))


@pytest.mark.parametrize(
    ("images", "expected"),
    [(COLOUR, COLOUR), (np.moveaxis(COLOUR, -1, 1), COLOUR), (GREY[..., None], None), (GREY[:, None], None)],
)
@pytest.mark.parametrize("keys", [("x", "y"), ("images", "labels"), ("data", "labels"), ("x", "labels")])
def test_shapes_and_names(images, expected, keys, tmp_path):
    path = save(tmp_path / "a.npz", **{keys[0]: images, keys[1]: LABELS[:, None]})
    dataset = open_dataset(str(path))
    wanted = np.repeat(GREY[..., None], 3, axis=3) if expected is None else expected
    assert np.array_equal(np.asarray(dataset.load(4)), wanted[4])
    assert dataset.targets.tolist() == LABELS.tolist()


def test_images_with_labels_go_before_images_without(tmp_path):
    path = save(tmp_path / "a.npz", x=GREY[:3], images=GREY, labels=LABELS)
    assert open_dataset(str(save(tmp_path / "b.npz", x=GREY[:1], images=GREY))).targets.tolist() == [-1]
    assert open_dataset(str(path)).targets.tolist() == LABELS.tolist()


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_sixteen_bits_of_either_byte_order_are_read_alike(order, tmp_path):
    np.save(tmp_path / "a.npy", np.full((1, 2, 2), 0x8000, dtype=order))
    assert open_dataset(str(tmp_path / "a.npy")).load(0).getpixel((0, 0)) == (128, 128, 128)


def test_one_image_is_not_as_many_grey_ones_as_it_has_rows(tmp_path):
    np.save(tmp_path / "one.npy", COLOUR[0])
    with pytest.raises(UserError, match=r"one.npy: \(6, 7, 3\) is one image \(H, W, C\), it seems"):
        open_dataset(str(tmp_path / "one.npy"))
    np.save(tmp_path / "one.npy", COLOUR[:1])
    assert len(open_dataset(str(tmp_path / "one.npy"))) == 1


def test_images_alone_are_unlabelled(tmp_path):
    np.save(tmp_path / "a.npy", COLOUR)
    for source in (tmp_path / "a.npy", save(tmp_path / "b.npz", x=COLOUR)):
        assert open_dataset(str(source)).targets.tolist() == [-1] * 5


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": GREY.astype(complex)}, "must be real numbers, got complex128"),
        ({"x": GREY[0]}, "must have shape"),
        ({"x": np.zeros((10**9, 0, 0), np.uint8)}, "must have shape"),
        ({"x": GREY, "y": LABELS[:3]}, "as many of each"),
        ({"x": GREY, "y": LABELS + 0.5}, "whole numbers"),
        ({"x": GREY, "y": np.array([0, 1, 2, 1, 255])}, "got 255 in entry 4 .*leave out"),
        ({"x": GREY, "y": np.array([0, 1, 2, 1, -100])}, "got -100 in entry 4 .*leave out"),
        ({"x": GREY, "y": np.array([0, 1, 2, 1, 3_000_000_000])}, "got 3000000000 in entry 4"),
        ({"x": GREY, "y": np.array([0, 1, 2, 1, np.inf])}, "got inf in entry 4"),
        ({"weights": GREY}, r"holds weights; expected x_train"),
        ({"x": np.array([{}, {}], dtype=object)}, "cannot be read as a NumPy file"),
    ],
)
def test_mistakes_are_one_line(arrays, message, tmp_path):
    path = save(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=message) as error:
        open_dataset(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (GREY.astype(np.uint16) * 257, GREY),
        (GREY / np.float32(255), GREY),
        (GREY > 99, np.where(GREY > 99, 255, 0)),
    ],
)
def test_values_follow_the_pixel_rules(images, expected, tmp_path):
    dataset = open_dataset(str(save(tmp_path / "a.npz", x=images, y=LABELS)))
    assert np.array_equal(np.asarray(dataset.load(2))[..., 0], expected[2])


@pytest.mark.parametrize("first", [True, False])
def test_many_channels_are_for_models_that_take_them(first, tmp_path):
    images = np.random.default_rng(2).integers(0, 256, (3, 9, 8, 5), dtype=np.uint8)
    np.save(tmp_path / "a.npy", np.moveaxis(images, -1, 1) if first else images)
    dataset = open_dataset(str(tmp_path / "a.npy"))
    with pytest.raises(UserError, match=r"it has the shape \(9, 8, 5\)"):
        dataset.load(0)
    transform = eval_transform({"input_size": (5, 9, 8), "mean": (0.0,), "std": (1.0,), "crop_pct": 1.0})
    seen = dataset.with_transform(transform)[1][0] * 255
    assert np.array_equal(np.rint(seen.numpy()), np.moveaxis(images[1], -1, 0))


def test_bombs_are_one_line_before_memory_is_taken(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**3, 10**3)}
    )
    with zipfile.ZipFile(tmp_path / "claims.npz", "w") as file:
        file.writestr("x.npy", header.getvalue())
    with pytest.raises(UserError, match="claims the shape"):
        open_dataset(str(tmp_path / "claims.npz"))
    np.savez_compressed(tmp_path / "zeros.npz", x=np.zeros((300, 100, 100), np.uint8))
    with pytest.raises(UserError, match=r"x would inflate from \d+ to 3000\d+ bytes: raise data.max_inflated"):
        open_dataset(str(tmp_path / "zeros.npz"), max_inflated=2_000_000)
    assert len(open_dataset(str(tmp_path / "zeros.npz"))) == 300
    (tmp_path / "claims.npy").write_bytes(header.getvalue())
    with pytest.raises(UserError, match="cannot be read as a NumPy file"):
        open_dataset(str(tmp_path / "claims.npy"))


def test_damaged_files(tmp_path):
    path = save(tmp_path / "a.npz", x=GREY)
    path.write_bytes(path.read_bytes()[:100])
    (tmp_path / "b.npy").write_bytes(b"nonsense")
    for source in (path, tmp_path / "b.npy"):
        with pytest.raises(UserError, match="cannot be read as a NumPy file"):
            open_dataset(str(source))


def test_real_file(shared_data):
    dataset = open_dataset("mnist.npz::test", root=shared_data)
    assert len(dataset) == 10000
    assert np.bincount(dataset.targets)[:3].tolist() == [980, 1135, 1032]
