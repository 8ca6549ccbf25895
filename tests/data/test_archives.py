from __future__ import annotations

import errno
import io
import pickle
import tarfile
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ood_nc.data import archives, open_dataset, scan
from ood_nc.data.tar_index import plain_entries
from ood_nc.errors import UserError

from .conftest import encoded, pack, put

KINDS = ("a.tar", "a.tar.gz", "a.tar.xz", "a.tar.bz2", "a.tgz", "a.zip")


@pytest.mark.parametrize("kind", KINDS)
def test_reads_what_the_folder_holds(kind, animals, tmp_path):
    path = (
        pack(tmp_path / kind, animals)
        if kind != "a.tgz"
        else pack(tmp_path / "b.tar.gz", animals).rename(tmp_path / kind)
    )
    archive = open_dataset(f"{path}::train")
    folder = open_dataset(f"{put(tmp_path / 'folder', animals)}::train")
    assert archive.ids == folder.ids
    assert archive.class_names == folder.class_names
    assert archive.fingerprint() == folder.fingerprint()
    for index in range(len(folder)):
        assert np.array_equal(archive.load(index), folder.load(index))


@pytest.mark.parametrize("kind", ["a.tar", "a.zip"])
def test_hidden_members_are_ignored(kind, animals, tmp_path):
    files = {name: content for name, content in animals.items() if "/test/" not in name}
    dataset = open_dataset(str(pack(tmp_path / kind, files)))
    assert dataset.class_names == ("cat", "dog")
    assert dataset.notes[0] == "read from inside data/train/", "what lies beside that folder is none of its entries"
    assert not any("DS_Store" in name or "MACOSX" in name for name in dataset.ids)


def test_empty_class_of_an_archive_is_kept(tmp_path):
    path = pack(tmp_path / "a.tar", {"cat/1.png": encoded(1), "dog/1.png": encoded(2), "empty/": b""})
    assert open_dataset(str(path)).class_names == ("cat", "dog", "empty")


@pytest.mark.parametrize("name", ["../../evil.png", "/etc/evil.png", "./a/../../evil.png", "..\\evil.png"])
@pytest.mark.parametrize("kind", ["a.tar", "a.zip"])
def test_no_member_reaches_outside(kind, name, tmp_path):
    path = pack(tmp_path / kind, {"a/1.png": encoded(1), "b/1.png": encoded(2), name: encoded(3)})
    before = sorted(Path(tmp_path).rglob("*"))
    dataset = open_dataset(str(path))
    for index in range(len(dataset)):
        dataset.load(index)
    assert sorted(Path(tmp_path).rglob("*")) == before
    assert not any(entry.startswith(("/", "..")) for entry in dataset.ids)


@pytest.mark.parametrize("settings", [{"format": tarfile.PAX_FORMAT}, {"format": tarfile.GNU_FORMAT}])
def test_long_names_fall_back_to_the_standard_reader(settings, tmp_path):
    long = "class/" + "x" * 150 + ".png"
    path = pack(tmp_path / "a.tar", {long: encoded(1), "other/1.png": encoded(2)}, **settings)
    dataset = open_dataset(str(path))
    assert dataset.ids == (long, "other/1.png")
    assert dataset.load(0).size == (8, 8)


def test_fast_index_agrees_with_the_standard_reader(shared_data):
    path = shared_data / "flowers5.tar"
    fast = archives.open_archive(path)
    with tarfile.open(path) as file:
        expected = {info.name: (info.offset_data, info.size) for info in file if info.isreg()}
    assert {name: (member.offset, member.size) for name, member in fast.members.items()} == expected


def test_pax_comments_stay_on_the_fast_path(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "made by hand"}) as file:
        info = tarfile.TarInfo("a/1.png")
        content = encoded(1)
        info.size, info.mtime = len(content), 1.5
        file.addfile(info, io.BytesIO(content))
    assert plain_entries(path.read_bytes()) is not None
    assert open_dataset(str(path)).load(0).size == (8, 8)


def test_links_are_the_files_that_they_lead_to(tmp_path):
    """Symbolic links were left out in silence: a tar of a folder of links had fewer images than the folder."""
    path = tmp_path / "a.tar"
    links = {
        "a/2.png": (tarfile.LNKTYPE, "a/1.png"),
        "a/3.png": (tarfile.SYMTYPE, "1.png"),
        "b/4.png": (tarfile.SYMTYPE, "../a/3.png"),
        "b/5.png": (tarfile.LNKTYPE, "gone.png"),
        "b/6.png": (tarfile.SYMTYPE, "/etc/6.png"),
        "b/7.png": (tarfile.SYMTYPE, "7.png"),
        "b/8.png": (tarfile.SYMTYPE, "../a/9.png"),
    }
    with tarfile.open(path, "w") as file:
        for name, (kind, target) in links.items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, target
            file.addfile(link)
        contents = {"a/1.png": encoded(1), "a/9.png": encoded(9)}
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    dataset = open_dataset(str(path))
    assert dataset.ids == tuple(sorted({*links, *contents}))
    read = {name: dataset.content(index) for index, name in enumerate(dataset.ids) if name[2] not in "567"}
    assert read.pop("a/9.png") == read.pop("b/8.png") == encoded(9)
    assert set(read.values()) == {encoded(1)}
    broken = dict(scan(dataset).broken)
    assert broken.keys() == {"b/5.png", "b/6.png", "b/7.png"}
    assert all("a link to what is not in the archive" in why for why in broken.values())


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_zip_methods(method, tmp_path):
    path = pack(tmp_path / "a.zip", {"a/1.png": encoded(1), "b/1.png": encoded(2)}, compression=method)
    assert open_dataset(str(path)).content(1) == encoded(2)


def test_zip_method_that_is_not_supported_breaks_only_its_members(tmp_path):
    path = pack(tmp_path / "a.zip", {"a/1.png": encoded(1), "b/1.png": encoded(2)}, compression=zipfile.ZIP_LZMA)
    assert len(scan(open_dataset(str(path))).broken) == 2


def test_damaged_deflated_member_is_reported(tmp_path):
    files = {"a/1.bmp": encoded(1, kind="bmp") + bytes(999), "b/1.png": encoded(2)}
    path = pack(tmp_path / "a.zip", files, compression=zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    content[40:60] = bytes(20)
    path.write_bytes(content)
    dataset = open_dataset(str(path))
    assert [name for name, _ in scan(dataset).broken] == ["a/1.bmp"]
    assert len(dataset.fingerprint()) == 32


def test_damaged_zip_member_is_reported_by_its_checksum(tmp_path):
    path = pack(tmp_path / "a.zip", {"a/1.png": encoded(1), "b/1.png": encoded(2)})
    content = bytearray(path.read_bytes())
    content[content.index(encoded(1)) + 60] ^= 1
    path.write_bytes(content)
    assert scan(open_dataset(str(path))).broken == [("a/1.png", "its checksum in the archive does not match")]


@pytest.mark.parametrize("cut", [100, 600, 700])
def test_tar_that_ends_early_is_one_line(cut, tmp_path):
    path = pack(tmp_path / "a.tar", {"a/1.png": encoded(1), "a/2.png": encoded(2)})
    start = path.read_bytes().index(b"a/2.png")
    path.write_bytes(path.read_bytes()[: start + cut])
    with pytest.raises(UserError, match="cannot be read as an archive"):
        open_dataset(str(path))


def test_tar_without_an_end_mark_is_read(tmp_path):
    path = pack(tmp_path / "a.tar", {"a/1.png": encoded(1), "a/2.png": encoded(2)})
    path.write_bytes(path.read_bytes().rstrip(b"\0").ljust(2048, b"\0"))
    assert len(open_dataset(str(path))) == 2


@pytest.mark.parametrize("kind", ["a.tar", "a.tar.gz", "a.tar.xz", "a.zip"])
def test_damaged_archive_is_one_line(kind, animals, tmp_path):
    path = pack(tmp_path / kind, animals)
    whole = path.read_bytes()
    for content in (b"", b"no archive at all" * 40, whole[: len(whole) // 2 + 100]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="cannot be read as an archive") as error:
            open_dataset(f"{path}::train")
        assert "\n" not in str(error.value)


def test_encrypted_zip_says_so(tmp_path):
    path = pack(tmp_path / "a.zip", {"a/1.png": encoded(1)})
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="is encrypted"):
        open_dataset(str(path))


def test_full_disk_while_decompressing_is_one_line(animals, tmp_path, monkeypatch):
    path = pack(tmp_path / "a.tar.xz", animals)

    class Full(io.BytesIO):
        def write(self, block):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archives.tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(UserError, match=r"No room for the decompressed a.tar.xz .*TMPDIR"):
        open_dataset(f"{path}::train")


def test_two_splits_of_a_compressed_tar_are_decompressed_once(animals, tmp_path, monkeypatch):
    path = pack(tmp_path / "a.tar.xz", animals)
    train = open_dataset(f"{path}::train")
    monkeypatch.setattr(archives, "_decompressed", None)
    test = open_dataset(f"{path}::test")
    assert test.store.blob is train.store.blob


def test_copy_unpickled_elsewhere_decompresses_again(animals, tmp_path):
    dataset = open_dataset(f"{pack(tmp_path / 'a.tar.xz', animals)}::train")
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.store.archive is None
    assert copy.content(3) == dataset.content(3)
    assert copy.fingerprint() == dataset.fingerprint()


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        ("fork", "a.tar.xz"),
        ("fork", "a.zip"),
        pytest.param("spawn", "a.tar.xz", marks=pytest.mark.slow),
        pytest.param("spawn", "a.zip", marks=pytest.mark.slow),
    ],
)
def test_workers_read_the_same_images(start, kind, animals, tmp_path):
    path = pack(tmp_path / kind, animals)
    dataset = open_dataset(f"{path}::train").with_transform(np.asarray, with_index=True)
    expected = torch.stack([torch.from_numpy(dataset[index][0].copy()) for index in range(len(dataset))])
    if kind == "a.tar.xz":
        path.unlink()  # the workers share the decompressed file and must not need the archive again
    loader = DataLoader(dataset, batch_size=2, num_workers=1 if start == "spawn" else 2, multiprocessing_context=start)
    images, targets, indices = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert indices.tolist() == list(range(len(dataset)))
    assert targets.tolist() == dataset.targets.tolist()
    assert torch.equal(images, expected)


class TestBombs:
    """Nothing takes more memory or disk than it says, nor more than is allowed."""

    @staticmethod
    def limit(monkeypatch):
        monkeypatch.setattr(archives, "MAX_INFLATED", 100_000)

    @pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
    def test_a_member_that_inflates_beyond_the_limit(self, method, tmp_path, monkeypatch):
        self.limit(monkeypatch)
        content = bytes(2_000_000)
        path = pack(tmp_path / "a.zip", {"a/1.bmp": content, "b/1.png": encoded(1)}, compression=method)
        ((name, why),) = scan(open_dataset(str(path))).broken
        assert name == "a/1.bmp" and "2000000 bytes (data.max_inflated)" in why
        assert len(open_dataset(str(path)).fingerprint()) == 32
        assert open_dataset(str(path), max_inflated=2_000_000).content(0) == content

    @pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
    def test_a_member_that_says_less_than_it_holds(self, method, tmp_path):
        path = pack(tmp_path / "a.zip", {"a/1.bmp": bytes(50_000_000), "b/1.png": encoded(1)}, compression=method)
        content = bytearray(path.read_bytes())
        place = content.rindex(b"PK\x01\x02", 0, content.rindex(b"PK\x01\x02"))
        content[place + 24 : place + 28] = (1000).to_bytes(4, "little")
        path.write_bytes(content)
        dataset = open_dataset(str(path))
        tracemalloc.start()
        assert scan(dataset).broken == [("a/1.bmp", "the archive holds more than its 1000 bytes")]
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
        tracemalloc.stop()

    @pytest.mark.parametrize("kind", ["a.tar.gz", "a.tar.xz", "a.tar.bz2"])
    def test_a_tar_that_inflates_beyond_the_limit(self, kind, tmp_path, monkeypatch):
        self.limit(monkeypatch)
        path = pack(tmp_path / kind, {"a/1.bmp": bytes(2_000_000)})
        with pytest.raises(UserError, match=r"bytes inflate to over [0-9]+: raise data.max_inflated, if you trust it"):
            open_dataset(str(path))
        assert len(open_dataset(str(path), max_inflated=3_000_000)) == 1

    @pytest.mark.parametrize("claimed", [10**15, 2**63, 2**64 - 1])
    def test_absurd_sizes(self, claimed, tmp_path):
        path = pack(tmp_path / "a.zip", {"a/1.png": encoded(1), "b/1.png": encoded(2)})
        content = path.read_bytes()
        with zipfile.ZipFile(path) as file:
            first = file.infolist()[0]
            first.file_size = claimed
            for sizes in ((claimed, first.compress_size), (first.compress_size, claimed)):
                first.file_size, first.compress_size = sizes
                file._didModify, file.mode, file.fp = True, "a", io.BytesIO(content[: file.start_dir])
                file.fp.seek(file.start_dir)
                file._write_end_record()
                path.write_bytes(file.fp.getvalue())
                try:
                    broken = scan(open_dataset(str(path))).broken
                    assert [name for name, _ in broken] == ["a/1.png"]
                except UserError as error:
                    assert "beyond its end" in str(error)
            file.fp = None

    def test_a_tar_of_absurd_sizes(self, tmp_path):
        for size in (10**12, 2**62, -5):
            info = tarfile.TarInfo("a/1.png")
            info.size = abs(size)
            header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
            if size < 0:
                header[124:136] = b"\xff" * 11 + b"\xfb"
                header[148:156] = b" " * 8
                header[148:156] = f"{sum(header):06o}\0 ".encode()
            (tmp_path / "a.tar").write_bytes(bytes(header) + encoded(1).ljust(1024, b"\0") + bytes(1024))
            with pytest.raises(UserError, match=r"cannot be read as an archive|No images"):
                open_dataset(str(tmp_path / "a.tar"))

    def test_members_are_counted_first(self, tmp_path, monkeypatch):
        monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
        path = pack(tmp_path / "a.zip", {f"a/{index}.png": b"x" for index in range(5)})
        monkeypatch.setattr(archives.zipfile, "ZipFile", None)
        with pytest.raises(UserError, match="says that it has 5 members, over 3"):
            open_dataset(str(path))

    def test_an_archive_inside_is_passed_over(self, tmp_path):
        pack(tmp_path / "inner.zip", {"x/1.png": encoded(1)})
        path = pack(tmp_path / "a.zip", {"a/1.png": encoded(1), "a/in.zip": (tmp_path / "inner.zip").read_bytes()})
        assert open_dataset(str(path)).passed_over == ("a/in.zip",)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["a.tar", "a.zip"])
def test_a_hundred_thousand_members_take_seconds(kind, tmp_path):
    path = pack(tmp_path / kind, {f"{index % 10}/{index}.png": b"x" for index in range(100_000)})
    start = time.perf_counter()
    assert len(open_dataset(str(path))) == 100_000
    assert time.perf_counter() - start < 20


def test_real_archives(shared_data):
    flowers = open_dataset("flowers5.tar", root=shared_data)
    assert len(flowers) == 4317
    assert flowers.class_names == ("daisy", "dandelion", "rose", "sunflower", "tulip")
    assert "1 hidden entry ignored (flowers/.DS_Store)" in flowers.notes
    assert np.bincount(flowers.targets).tolist() == [764, 1052, 784, 733, 984]
    characters = open_dataset("images_background_small1.zip", root=shared_data)
    assert (len(characters), characters.num_classes) == (2720, 5)
    assert characters.load(0).mode == "RGB"
    textures = open_dataset("dtd5_128px.tar", root=shared_data, limit=3)
    assert np.bincount(textures.targets).tolist() == [3] * 5


def test_cifar10_from_the_compressed_archive(shared_data):
    train = open_dataset("cifar10_jpg.tar.xz::train", root=shared_data)
    test = open_dataset("cifar10_jpg.tar.xz::test", root=shared_data)
    assert np.bincount(train.targets).tolist() == [5000] * 10
    assert np.bincount(test.targets).tolist() == [1000] * 10
    assert train.class_names[:3] == ("airplane", "automobile", "bird")
    assert train.load(49999).size == (32, 32)
