from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import struct
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ood_nc import sealed
from ood_nc.errors import UserError
from ood_nc.sealed import (
    DamagedFileError,
    RowFile,
    is_sealed,
    read_sealed,
    read_sealed_bytes,
    write_sealed,
    write_sealed_bytes,
)

HEADER = {"name": 'quoted "seal":"x"', "mean": [0.5, 0.25], "nested": {"empty": None}}


def tensors() -> dict[str, torch.Tensor]:
    weight = torch.arange(24.0).view(4, 6)
    return {
        "weight": weight,
        "tied": weight,
        "transposed": weight.T,
        "row": weight[2],
        "half": weight.half(),
        "count": torch.tensor(3),
        "none": torch.zeros(0, 5),
        "bytes": torch.arange(7, dtype=torch.uint8),
    }


def test_what_was_written_is_read_and_plain_safetensors_reads_it_too(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.safetensors"
    write_sealed(path, tensors(), HEADER)
    header, found = read_sealed(path)
    assert header == HEADER and is_sealed(path)
    assert set(found) == set(tensors())
    for other in (found, load_file(path)):
        for name, value in tensors().items():
            assert torch.equal(other[name], value) and other[name].dtype == value.dtype, name
    assert read_sealed(path, with_tensors=False) == (HEADER, {})
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_the_digest_is_the_sha256_of_the_file_with_zeros_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_sealed(path, tensors(), HEADER)
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    seal = json.loads(content[8 : 8 + length])["__metadata__"]["seal"]
    assert content.count(seal.encode()) == 1
    assert hashlib.sha256(content.replace(seal.encode(), b"0" * 64)).hexdigest() == seal


def mutated(content: bytes, rng: random.Random) -> bytes:
    place, length = rng.randrange(len(content)), rng.choice([1, 1, 4, 50])
    kind = rng.randrange(5)
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content[:place] + rng.randbytes(length) + content[place:]
    if kind == 2:
        return content[:place] + content[place + length :]
    if kind == 3:
        flipped = bytes([content[place] ^ (1 << rng.randrange(8))])
        return content[:place] + flipped + content[place + 1 :]
    return content[:place] + rng.randbytes(length) + content[place + length :]


@pytest.mark.parametrize("kind", ["tensors", "bytes"])
def test_no_damage_is_accepted(kind: str, tmp_path: Path) -> None:
    path, rng = tmp_path / "x.safetensors", random.Random(0)
    if kind == "tensors":
        write_sealed(path, tensors(), HEADER)
    else:
        write_sealed_bytes(path, rng.randbytes(700))
    content = path.read_bytes()
    changed = 0
    for _ in range(400):
        damaged = mutated(content, rng)
        if damaged == content:
            continue
        changed += 1
        path.write_bytes(damaged)
        with pytest.raises(DamagedFileError) as raised:
            read_sealed(path) if kind == "tensors" else read_sealed_bytes(path)
        assert "\n" not in str(raised.value) and str(path) in str(raised.value)
    assert changed > 380


def test_swapped_names_of_equal_tensors_are_damage_too(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_sealed(path, {"aa": torch.ones(2), "bb": torch.zeros(2)}, {})
    path.write_bytes(path.read_bytes().replace(b'"aa"', b'"cc"').replace(b'"bb"', b'"aa"').replace(b'"cc"', b'"bb"'))
    with pytest.raises(DamagedFileError, match="digest"):
        read_sealed(path)


def test_files_of_others_are_told_apart(tmp_path: Path) -> None:
    plain = tmp_path / "plain.safetensors"
    save_file(tensors() | {"tied": torch.ones(1), "transposed": torch.ones(1), "row": torch.ones(1)}, plain)
    (tmp_path / "text").write_text("not tensors")
    (tmp_path / "huge").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    (tmp_path / "empty").write_bytes(b"")
    for path in tmp_path.iterdir():
        assert not is_sealed(path)
        with pytest.raises(DamagedFileError, match="no file of ood_nc"):
            read_sealed(path)
    for read in (read_sealed, read_sealed_bytes):
        with pytest.raises(UserError, match="no file"):
            read(tmp_path / "absent")
        with pytest.raises(UserError, match="Cannot read"):
            read(tmp_path)
    assert not is_sealed(tmp_path) and not is_sealed(tmp_path / "absent")


@pytest.mark.parametrize("text", ["[" * 100_000, "not json", "[1]", '"text"'])
def test_a_header_that_is_nonsense_under_a_true_digest_is_one_line(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(sealed.json, "dumps", lambda *args, **options: text)
        write_sealed(path, {"a": torch.ones(1)}, {})
    with pytest.raises(DamagedFileError) as raised:
        read_sealed(path)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 300


def test_a_value_that_is_not_json_is_not_written(tmp_path: Path) -> None:
    for value in (float("nan"), object()):
        with pytest.raises((ValueError, TypeError)):
            write_sealed(tmp_path / "x", {}, {"value": value})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_the_users_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise SafetensorError(f"I/O error: {os.strerror(errno.ENOSPC)} (os error {errno.ENOSPC})")

    monkeypatch.setattr(sealed, "save_file", full)
    with pytest.raises(UserError, match="No space left"):
        write_sealed(tmp_path / "x", {"a": torch.ones(1)}, {})
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A file of 70,000 rows, appended in parts that are no whole blocks, and more than was meant to stay."""
    file = RowFile(tmp_path / "rows.safetensors", 9, torch.float16, 80_000, {"of": "rows"})
    matrix = torch.arange(630_000).remainder(2039).half().view(-1, 9)
    for part in (matrix[:50_001], matrix[50_001:60_000], matrix[:7]):
        file.append(part)
    file.keep(60_000)
    file.append(matrix[60_000:])
    file.seal()
    file.close()
    return tmp_path / "rows.safetensors"


def test_a_file_of_rows_is_a_sealed_safetensors_file(rows: Path) -> None:
    header, tensors = read_sealed(rows)
    assert header == {"of": "rows"} and is_sealed(rows)
    assert torch.equal(tensors["rows"], torch.arange(630_000).remainder(2039).half().view(-1, 9))
    assert torch.equal(load_file(rows)["rows"], tensors["rows"])


def test_whatever_happens_to_a_file_of_rows_is_found(rows: Path) -> None:
    content, generator = rows.read_bytes(), random.Random(0)
    places = [*range(0, 4096, 63), *(generator.randrange(4096, len(content)) for _ in range(100)), len(content) - 1]
    changed = [content[:at] + bytes([content[at] ^ (1 << at % 8)]) + content[at + 1 :] for at in places]
    changed += [content[:-1], content + b"\0", content[: 1 << 20]]
    first, second, third = (
        1 << 19,
        (1 << 19) + 4096,
        1 << 20,
    )  # the same column of two rows, the same place of two blocks
    for a, b in ((first, second), (first, first + 8), (8192, 8192 + third), (first, first + 8 * 512 * 3 + 16)):
        swapped = bytearray(content)
        swapped[a : a + 8], swapped[b : b + 8] = content[b : b + 8], content[a : a + 8]
        assert bytes(swapped) != content
        changed.append(bytes(swapped))
    for damaged in changed:
        rows.write_bytes(damaged)
        with pytest.raises(DamagedFileError):
            read_sealed(rows)


@pytest.mark.parametrize("count", [0, 1])
def test_a_file_of_no_rows_and_of_one(count: int, tmp_path: Path) -> None:
    file = RowFile(tmp_path / "few", 3, torch.bfloat16, 10**12, {})
    file.append(torch.ones(count, 3))
    file.seal()
    file.close()
    assert read_sealed(tmp_path / "few")[1]["rows"].tolist() == [[1.0] * 3] * count
