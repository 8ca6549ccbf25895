from __future__ import annotations

import itertools
import os
import tarfile
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ood_nc.data import ImageStream
from ood_nc.errors import UserError


def as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image, dtype=np.float32)).permute(2, 0, 1)


def picture(path: Path, value: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (value, 0, 0)).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    for index, name in enumerate(["b/2.png", "a/1.png", "a/z/3.png", "0.png"]):
        picture(root / name, 10 * index)
    picture(root / ".hidden" / "h.png", 255)
    (root / "notes.md").write_text("no image")
    return root


def ids_and_values(stream: ImageStream, workers: int = 0) -> tuple[list[str], list[float]]:
    ids, values = [], []
    for batch in stream.loader(workers):
        ids += batch.ids
        if batch.images is not None:
            values += batch.images[:, 0, 0, 0].tolist()
    return ids, values


def test_a_folder_is_walked_in_the_order_of_names(folder: Path) -> None:
    ids, values = ids_and_values(ImageStream([str(folder)], as_tensor, batch_size=3))
    assert ids == [f"{folder}/{name}" for name in ("0.png", "a/1.png", "a/z/3.png", "b/2.png", "notes.md")]
    assert values == [30, 10, 20, 0]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(folder: Path, workers: int) -> None:
    expected = ids_and_values(ImageStream([str(folder)] * 5, as_tensor, batch_size=2))
    assert ids_and_values(ImageStream([str(folder)] * 5, as_tensor, batch_size=2), workers) == expected


def test_a_file_that_comes_meanwhile_costs_no_other(tmp_path: Path) -> None:
    paths = [picture(tmp_path / name / f"{index}.png", index) for name in "az" for index in range(1, 9)]
    slow = picture(tmp_path / "a" / "5.png", 77)

    def transform(image: Image.Image) -> torch.Tensor:
        if image.getpixel((0, 0))[0] == 77:
            time.sleep(0.5)  # a second worker comes to the next folder
            picture(slow.parents[1] / "z" / "0.png", 0)
        return as_tensor(image)

    stream = ImageStream([str(tmp_path)], transform, batch_size=2)
    ids = [name for batch in stream.loader(2) for name in batch.ids if not name.endswith("0.png")]
    assert ids == list(map(str, paths))


def test_skipped_images_are_those_that_came_before(folder: Path) -> None:
    ids, values = ids_and_values(ImageStream([str(folder)], as_tensor, batch_size=2))
    assert ids_and_values(ImageStream([str(folder)], as_tensor, batch_size=2, skip=3)) == (ids[3:], values[3:])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stamp_changes_with_the_file_of_its_image_alone(folder: Path, workers: int) -> None:
    def stamped() -> list[tuple[str, str]]:
        stream = ImageStream([str(folder), "bundled/digits-near"], lambda _: torch.zeros(3), batch_size=3)
        found = [pair for batch in stream.loader(workers) for pair in zip(batch.ids, batch.stamps, strict=True)]
        assert found == list(stream.stamped())
        return found

    before = stamped()
    os.utime(folder / "a" / "1.png", ns=(0, 1))
    changed = [now[0] for then, now in zip(before, stamped(), strict=True) if then != now]
    assert changed == [f"{folder}/a/1.png"]
    assert {stamp for name, stamp in before if not name.endswith(".png") or "::" in name} == {""}


def test_archives_lists_files_and_data_sets_follow_each_other(folder: Path, tmp_path: Path) -> None:
    tar, zipped = tmp_path / "t.tar.gz", tmp_path / "z.zip"
    with tarfile.open(tar, "w:gz") as archive:
        archive.add(folder / "0.png", "inner/0.png")
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.write(folder / "a" / "1.png", "1.png")
        archive.writestr("readme.txt", "no image")
    listing = tmp_path / "list.txt"
    listing.write_text("images/b/2.png 7\n\nimages/a/z/3.png\n")
    np.savez(tmp_path / "set.npz", x=np.full((2, 4, 4), 99, dtype=np.uint8), y=np.array([0, 1]))
    sources = [str(path) for path in (tar, zipped, listing, folder / "0.png", tmp_path / "set.npz")]
    ids, values = ids_and_values(ImageStream(sources, as_tensor, batch_size=4), workers=2)
    first = [f"{tar}::inner/0.png", f"{zipped}::1.png", f"{zipped}::readme.txt"]
    assert ids[:6] == [*first, "images/b/2.png", "images/a/z/3.png", sources[3]]
    assert len(ids) == 8
    assert values == [30, 10, 0, 20, 30, 99, 99]


def test_broken_images_cost_no_other(folder: Path) -> None:
    (folder / "a" / "2.png").write_bytes(b"not a picture")
    (folder / "a" / "4.png").write_bytes((folder / "0.png").read_bytes()[:40])
    (batch,) = ImageStream([str(folder)], as_tensor)
    assert [position for position, _ in batch.errors] == [2, 3, 6]
    assert "not an image" in batch.errors[0][1]
    assert batch.images is not None
    assert len(batch) == 7
    assert len(batch.images) == 4


def test_a_file_that_is_no_image_has_a_row_with_the_reason(folder: Path) -> None:
    (folder / "b" / "README").write_text("no image")
    (batch,) = ImageStream([str(folder)], as_tensor)
    found = {batch.ids[position].removeprefix(f"{folder}/"): why for position, why in batch.errors}
    assert found == {
        "notes.md": "passed over: not an image (.md)",
        "b/README": "passed over: not an image (no suffix)",
    }


def test_a_folder_that_cannot_be_read_is_an_error_row(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refusing(path: str) -> object:
        if path.endswith("/a"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr("ood_nc.data.folders.os.scandir", refusing)
    (batch,) = ImageStream([str(folder)], as_tensor)
    assert [batch.ids[position] for position, _ in batch.errors] == [f"{folder}/a", f"{folder}/notes.md"]
    assert batch.errors[0][1] == "the folder cannot be read: Permission denied"
    assert len(batch) == 4


def test_a_link_to_a_folder_above_ends(folder: Path) -> None:
    (folder / "a" / "again").symlink_to(folder)
    ids, _ = ids_and_values(ImageStream([str(folder)], as_tensor))
    assert len(ids) == 5


def test_a_wrong_path_is_known_before_any_work(folder: Path) -> None:
    with pytest.raises(UserError, match=r"No image, folder or archive at .*imagse\. Did you mean 'images'\?"):
        ImageStream([str(folder), str(folder.parent / "imagse")], as_tensor)
    with pytest.raises(UserError, match=r"No image, folder or archive at .*nope\.png"):
        ImageStream([str(folder / "nope.png")] * 2, as_tensor)


def test_an_image_that_is_not_there_costs_no_other(folder: Path) -> None:
    batches = list(ImageStream([str(folder / "nope.png"), str(folder)], as_tensor))
    assert len(batches[0]) == 6
    position, why = batches[0].errors[0]
    assert position == 0 and "No image, folder or archive at" in why and "nope.png" in why


def test_memory_does_not_grow_with_the_number_of_images(folder: Path) -> None:
    def peak(times: int) -> int:
        stream = ImageStream([str(folder)] * times, as_tensor, batch_size=4)
        tracemalloc.start()
        for _ in itertools.islice(stream, None):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(2)
    assert peak(400) < peak(20) + 200_000
