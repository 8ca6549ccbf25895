"""Files that tell when they are damaged: tensors with a JSON header in the safetensors format, or bytes, and a digest.

The digest is a SHA-256 over every byte of the file, names, shapes and header included, but its own 64; in a file of
rows, which may be larger than the memory and is read at the disk's rate, over the header and the sums of the rows and
of the columns of each block of numbers. It finds a bad disk, a copy cut short, an edit by hand. It is no signature:
whoever changes the content can write the digest anew, so it says nothing of a file from somebody who is not trusted.
Nothing in such a file can run, but all of it may be false.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ood_nc.errors import UserError
from ood_nc.files import atomic_path

_BLANK = b"0" * 64
_SEAL = re.compile(rb'"seal":"([0-9a-f]{64})"')
_MARK = b"ood_nc sealed:"
_LARGEST_HEADER = 100_000_000  # safetensors' own limit
_CHUNK = 1 << 20
_COLUMNS = 512
_BY_SUMS = b'"digest":"sums"'
_PAGE = 4096
_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


class DamagedFileError(UserError):
    """A file of ours is not as it was written."""


def write_sealed(path: str | Path, tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and a header to ``path``, whole or not at all.

    The file is a plain safetensors file for any other reader.

    Args:
        path: usually ``NAME.safetensors``.
        tensors: on any device, of any layout; those that share memory are stored apart.
        header: JSON values.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    text = json.dumps(dict(header), allow_nan=False)
    with atomic_path(path) as temporary:
        try:
            save_file(_plain(tensors), temporary, {"format": "pt", "seal": _BLANK.decode(), "ood_nc": text})
        except SafetensorError as error:
            # safetensors hides the system's error; a full disk must be told from a fault of ours.
            code = re.search(r"(?:os error|code:) (\d+)", str(error))
            raise (OSError(int(code[1]), os.strerror(int(code[1]))) if code else error) from error
        _seal(temporary)


class RowFile:
    """A matrix of ``most`` rows at the most, appended to in place; `seal` makes it a file that `read_sealed` reads.

    The header stands first in a safetensors file and says how many rows there are, so room is left for it.

    Args:
        path: the file; what stands there already is kept, and `keep` says how much of it counts.
        width: numbers a row.
        dtype: float32, float16 or bfloat16.
        most: rows that it may come to hold.
        header: JSON values.
    """

    def __init__(self, path: Path, width: int, dtype: torch.dtype, most: int, header: Mapping[str, Any]) -> None:
        self.width, self.dtype, self.row_bytes = width, dtype, width * dtype.itemsize
        self._path, self._header = path, json.dumps(dict(header), allow_nan=False)
        self._start = -(-(8 + len(self._head(most))) // _PAGE) * _PAGE
        self._file = open(path, "r+b" if path.exists() else "w+b", buffering=0)  # noqa: SIM115
        self.rows = 0

    def append(self, rows: torch.Tensor) -> memoryview:
        """Write rows behind the others; returns their bytes."""
        data: memoryview = rows.to(self.dtype).contiguous().view(-1).view(torch.uint8).numpy().data
        self._write(self._start + self.rows * self.row_bytes, data)
        self.rows += len(rows)
        return data

    def read(self, start: int, stop: int) -> bytes:
        """The bytes of some rows, as far as there are any."""
        return os.pread(self._file.fileno(), (stop - start) * self.row_bytes, self._start + start * self.row_bytes)

    def keep(self, rows: int) -> None:
        """Leave the first ``rows`` alone."""
        self.rows = rows
        self._file.truncate(self._start + rows * self.row_bytes)

    def seal(self) -> None:
        """Write the header and the digest, and see all of it to the disk."""
        room = self._start - 8
        self._write(0, memoryview(room.to_bytes(8, "little") + self._head(self.rows).ljust(room)))
        _seal(self._path)
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, place: int, data: memoryview) -> None:
        while data:
            written = os.pwrite(self._file.fileno(), data, place)
            place, data = place + written, data[written:]

    def _head(self, rows: int) -> bytes:
        facts = {"format": "pt", "seal": _BLANK.decode(), "digest": "sums", "ood_nc": self._header}
        matrix = {"dtype": _DTYPES[self.dtype], "shape": [rows, self.width], "data_offsets": [0, rows * self.row_bytes]}
        return json.dumps({"__metadata__": facts, "rows": matrix}, separators=(",", ":")).encode()


def read_sealed(path: str | Path, *, with_tensors: bool = True) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Read what `write_sealed` wrote: the header and the tensors, which are memory mapped.

    Args:
        path: the file.
        with_tensors: False reads the header alone; the digest is checked in any case.

    Raises:
        DamagedFileError: not as it was written, or never written by `write_sealed`.
        UserError: no such file, or one that cannot be opened.
    """
    path = Path(path)
    _, stored, digest = _read(path, lambda: _digest(path))
    if stored != digest:
        raise DamagedFileError(f"{path} is damaged: its content does not have the digest it was written with.")
    return _read(path, lambda: _contents(path, with_tensors))


def is_sealed(path: str | Path) -> bool:
    """Whether a file is a safetensors file of ours, by its header; it may be damaged all the same."""
    try:
        _digest(Path(path), header_only=True)
    except (ValueError, OSError):
        return False
    return True


def write_sealed_bytes(path: str | Path, content: bytes) -> None:
    """Write ``content`` with its digest behind it, whole or not at all.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(content + _MARK + hashlib.sha256(content).hexdigest().encode())


def read_sealed_bytes(path: str | Path) -> bytes:
    """Read what `write_sealed_bytes` wrote, without the digest.

    Raises:
        DamagedFileError: not as it was written, or never written by `write_sealed_bytes`.
        UserError: no such file, or one that cannot be opened.
    """
    path = Path(path)
    whole = _read(path, path.read_bytes)
    content, seal = whole[: -len(_MARK) - 64], whole[-len(_MARK) - 64 :]
    if seal != _MARK + hashlib.sha256(content).hexdigest().encode():
        raise DamagedFileError(f"{path} is damaged: its content does not have the digest it was written with.")
    return content


def _digest(path: Path, *, header_only: bool = False) -> tuple[int, str, str]:
    """Where in the file the digest stands, what stands there, and what should.

    Raises:
        ValueError: no safetensors file, or one without exactly one digest in its header.
    """
    with open(path, "rb") as file:
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > _LARGEST_HEADER:
            raise ValueError("it is no safetensors file")
        header = file.read(length)
        seals = list(_SEAL.finditer(header))
        if len(seals) != 1:
            raise ValueError("it carries no digest")
        start, end = seals[0].span(1)
        whole = hashlib.sha256(prefix + header[:start] + _BLANK + header[end:])
        by_sums, buffer = _BY_SUMS in header, memoryview(bytearray(_CHUNK))
        while not header_only and (length := file.readinto(buffer)):
            whole.update(_sums(buffer[:length]) if by_sums else buffer[:length])
    return len(prefix) + start, seals[0][1].decode(), whole.hexdigest()


def _seal(path: Path) -> None:
    place, _, digest = _digest(path)
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(digest.encode())


def _sums(block: memoryview) -> bytes:
    """Its length and the sums of rows and columns of its 64-bit words, modulo 2^64: ten times as fast as SHA-256.

    One, two or three words that changed are always found, and any others unless they cancel in row and column.
    """
    words = np.frombuffer(bytes(block).ljust(_CHUNK, b"\0") if len(block) < _CHUNK else block, dtype="<u8")
    table = words.reshape(-1, _COLUMNS)
    return len(block).to_bytes(8, "little") + table.sum(axis=0).tobytes() + table.sum(axis=1).tobytes()


def _contents(path: Path, with_tensors: bool) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["ood_nc"])
        tensors = {key: file.get_tensor(key) for key in file.keys()} if with_tensors else {}  # noqa: SIM118
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    return header, tensors


def _read(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except FileNotFoundError:
        raise UserError(f"There is no file {path}.") from None
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.") from None
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        why = " ".join(str(error).split())[:100] or type(error).__name__
        raise DamagedFileError(f"{path} is damaged, or no file of ood_nc ({why}).") from None


def _plain(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """On the CPU, contiguous, no two in the same memory (tied weights), which the format refuses."""
    plain: dict[str, torch.Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        if value.untyped_storage().data_ptr() in taken:
            value = value.clone()
        taken.add(value.untyped_storage().data_ptr())
        plain[name] = value
    return plain
