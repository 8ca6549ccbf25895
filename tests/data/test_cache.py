"""Images that are kept decoded are the images, and the file that keeps them is whole, current, and made once."""

from __future__ import annotations

import errno
import io
import multiprocessing
import os
import pickle
import time

import numpy as np
import pytest
from PIL import Image

from ood_nc.config import AugmentConfig, DataConfig, PixelConfig
from ood_nc.data import BrokenImageError, load_data, open_dataset, train_transform
from ood_nc.data import cache as module
from ood_nc.data.cache import cached
from ood_nc.data.stores import FileStore
from ood_nc.errors import UserError
from ood_nc.training.loading import train_loader

from .conftest import encoded, put

PREPROCESSING = {"input_size": (3, 8, 8), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}


@pytest.fixture
def photos(tmp_path):
    """Two classes of images of several sizes and kinds, one of them broken."""
    files = {f"photos/{name}/{index}.jpg": encoded(index, 9 + index, "jpeg") for name in "ab" for index in range(4)}
    files |= {"photos/a/8.png": encoded(8, 12), "photos/b/9.gif": encoded(9, 5, "gif"), "photos/b/x.png": b"no image"}
    put(tmp_path, files)
    return open_dataset(str(tmp_path / "photos"))


def pixels(dataset):
    return [np.asarray(dataset.load(index)) for index in range(len(dataset)) if "x.png" not in dataset.ids[index]]


def equal(first, second):
    return len(first) == len(second) and all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.fixture
def decoded(monkeypatch):
    """The images that were decoded from their files."""
    seen = []
    read = FileStore.read
    monkeypatch.setattr(FileStore, "read", lambda store, index: seen.append(index) or read(store, index))
    return seen


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_what_is_kept_is_what_the_files_decode_to(photos, tmp_path, where, decoded):
    plain = pixels(photos)
    kept = cached(photos, where if where == "memory" else str(tmp_path / where), workers=2)
    decoded.clear()
    assert equal(pixels(kept), plain)
    assert equal(pixels(kept.subset([3, 0])), [plain[3], plain[0]])
    assert equal(pixels(pickle.loads(pickle.dumps(kept))), plain)  # what a loading process is sent
    assert decoded == []
    assert kept.fingerprint() == photos.fingerprint()
    assert kept.size(0) == photos.size(0)
    assert kept.content(0) == photos.content(0)


@pytest.mark.parametrize("where", ["memory", "folder"])
@pytest.mark.parametrize("workers", [0, 2])
def test_training_batches_are_the_same_bit_for_bit(photos, tmp_path, where, workers):
    whole = photos.subset([index for index, name in enumerate(photos.ids) if "x.png" not in name])
    kept = cached(whole, where if where == "memory" else str(tmp_path / where))
    transform = train_transform(PREPROCESSING, AugmentConfig(color_jitter=0.4))
    first, second = (
        [images for images, *_ in train_loader(part.with_transform(transform), batch_size=5, workers=count)]
        for part, count in ((whole, 0), (kept, workers))
    )
    assert equal([batch.numpy() for batch in first], [batch.numpy() for batch in second])


def test_other_rules_channels_and_broken_images_are_asked_of_the_files(tmp_path, photos):
    put(tmp_path, {"clear/a/0.png": _clear()})
    clear = open_dataset(str(tmp_path / "clear"))
    black = PixelConfig(background="black")
    kept = cached(clear, "memory")
    assert np.asarray(kept.load(0)).max() == 255
    assert np.asarray(kept.with_pixels(black).load(0)).max() == 0
    kept.channels = 4
    assert kept.load(0).shape == (2, 2, 4)
    broken = cached(photos, "memory")
    with pytest.raises(BrokenImageError, match=r"cannot read b/x\.png \(not an image"):
        broken.load(broken.ids.index("b/x.png"))


def test_a_file_is_used_again_until_images_or_rules_change(tmp_path, photos, decoded):
    folder = tmp_path / "cache"
    cached(photos, str(folder))
    (made,) = folder.iterdir()
    decoded.clear()
    cached(open_dataset(str(tmp_path / "photos")), str(folder))
    assert decoded == []
    put(tmp_path, {"photos/a/1.jpg": encoded(77, 10, "jpeg")})
    changed = open_dataset(str(tmp_path / "photos"))
    kept = cached(changed, str(folder))
    assert len(decoded) == len(photos)
    assert equal(pixels(kept), pixels(changed))
    decoded.clear()
    cached(changed.with_pixels(PixelConfig(background="black")), str(folder))
    assert len(decoded) == len(photos)
    assert made in set(folder.iterdir())
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize("damage", ["bit", "end", "all", "one byte"])
def test_a_damaged_file_is_told_of_and_made_again(tmp_path, photos, damage, caplog):
    folder = tmp_path / "cache"
    cached(photos, str(folder))
    (file,) = folder.iterdir()
    content = file.read_bytes()
    flipped = content[:100] + bytes([content[100] ^ 1]) + content[101:]
    file.write_bytes({"bit": flipped, "end": content[:-1], "all": b"", "one byte": b"x"}[damage])
    kept = cached(photos, str(folder))
    assert "is damaged: the images are decoded again" in caplog.text
    assert file.read_bytes() == content
    assert equal(pixels(kept), pixels(photos))


def _make(folder, source, started, gate):
    decode = module.look_through

    def slowly(*arguments):
        started.set()
        time.sleep(0.3)
        return decode(*arguments)

    module.look_through = slowly
    gate.wait()
    cached(open_dataset(source), folder)
    os._exit(0)


def test_of_two_processes_one_makes_the_file_and_the_other_waits(tmp_path, photos):
    fork = multiprocessing.get_context("fork")
    started, gate = [fork.Event(), fork.Event()], fork.Event()
    source, folder = str(tmp_path / "photos"), str(tmp_path / "cache")
    makers = [fork.Process(target=_make, args=(folder, source, event, gate)) for event in started]
    for maker in makers:
        maker.start()
    gate.set()
    for maker in makers:
        maker.join(30)
    assert [maker.exitcode for maker in makers] == [0, 0]
    assert sum(event.is_set() for event in started) == 1
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, photos, monkeypatch):
    def full(*_):
        yield [(0, np.zeros((2, 2, 3), dtype=np.uint8))]
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "look_through", full)
    with pytest.raises(UserError, match=r"No space left on the disk while writing .*cache/\w+\.pixels"):
        cached(photos, str(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").iterdir())


def test_a_run_keeps_train_and_its_held_out_share_in_one_file(tmp_path, decoded):
    put(tmp_path, {f"id/{name}/{index}.png": encoded(ord(name) + 9 * index) for name in "ab" for index in range(8)})
    settings = {
        "root": str(tmp_path),
        "train": "id",
        "test": None,
        "val_fraction": 0.25,
        "cache": str(tmp_path / "kept"),
    }
    for seed in (0, 1):  # another seed holds other images out of the same file
        data = load_data(DataConfig(**settings), seed=seed)
        decoded.clear()
        pixels(data.id_train)
        pixels(data.id_val)
        assert decoded == []
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_arrays_are_left_as_they_are(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((3, 4, 4), dtype=np.uint8))
    arrays = open_dataset(str(tmp_path / "images.npy"))
    assert cached(arrays, str(tmp_path / "cache")) is arrays
    assert not (tmp_path / "cache").exists()


def _clear():
    """A black image of 2 x 2 that is all transparent, as a PNG."""
    content = io.BytesIO()
    Image.new("RGBA", (2, 2), (9, 9, 9, 0)).save(content, "png")
    return content.getvalue()
