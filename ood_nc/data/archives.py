"""Tar and zip archives read in place: an index of members, then reads that any process may do at once."""

from __future__ import annotations

import bz2
import gzip
import lzma
import mmap
import os
import tarfile
import tempfile
import weakref
import zipfile
import zlib
from dataclasses import dataclass
from multiprocessing import context, reduction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ood_nc.data.stores import TAIL, Store, check_bytes, is_unpacked
from ood_nc.data.tar_index import tar_entries
from ood_nc.errors import UserError
from ood_nc.progress import progress

_TAR, _LINK = -1, -2
_OPENERS: dict[str, Any] = {"gz": gzip.open, "tgz": gzip.open, "xz": lzma.open, "txz": lzma.open, "bz2": bz2.open}
_BOMB_RATIO, _ABSURD = 100, 1 << 62
_END_OF_ZIP = 22 + (1 << 16)
MAX_INFLATED = 1 << 28
"""Bytes that anything compressed may inflate to; more than that only up to a hundred times its own size."""
MAX_MEMBERS = 20_000_000
_SUFFIXES = (".tar", ".zip", ".tgz", ".txz", ".tar.gz", ".tar.xz", ".tar.bz2")


@dataclass(frozen=True)
class Member:
    """A file of an archive. In a zip, ``offset`` is that of its local header, as the central directory has it."""

    name: str
    offset: int
    stored: int
    size: int
    method: int = _TAR
    crc: int = 0


def most_inflated(stored: int, max_inflated: int | None = None) -> int:
    """The bytes that ``stored`` compressed bytes may inflate to: images do not shrink to a hundredth."""
    return max(MAX_INFLATED if max_inflated is None else max_inflated, _BOMB_RATIO * stored)


class Blob:
    """A file read at given positions, so that processes and threads never share a cursor.

    A compressed tar is decompressed once to a temporary file without a name, which is gone when the last reader is.
    A worker that is spawned inherits the open file; a copy unpickled anywhere else decompresses again.
    """

    def __init__(self, path: Path, max_inflated: int | None = None) -> None:
        self.path = path.absolute()  # it may be opened again from another working folder
        self.max_inflated = max_inflated
        self._file: BinaryIO | None = None

    def fileno(self) -> int:
        """The descriptor, opened on first use."""
        if self._file is None:
            compressed = _opener(self.path) is not None
            self._file = (
                _decompressed(self.path, self.max_inflated) if compressed else self.path.open("rb", buffering=0)
            )
        return self._file.fileno()

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``; fewer where the file ends before."""
        return os.pread(self.fileno(), size, offset)

    def __getstate__(self) -> dict[str, Any]:
        spawning = context.get_spawning_popen() is not None
        inherit = spawning and _opener(self.path) is not None
        return {
            "path": self.path,
            "max_inflated": self.max_inflated,
            "handle": reduction.DupFd(self.fileno()) if inherit else None,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path, self.max_inflated = state["path"], state["max_inflated"]
        handle = state["handle"]
        self._file = None if handle is None else os.fdopen(handle.detach(), "rb", buffering=0)


class Archive:
    """The index of an archive: its files, its folders, and where each file lies."""

    def __init__(self, path: Path, max_inflated: int | None = None) -> None:
        self.path = path
        self.blob = Blob(path, max_inflated)
        members, self.folders = _index(self.blob)
        self.members = {member.name: member for member in members}

    def store(self, names: tuple[str, ...]) -> ArchiveStore:
        """The members of these names, in this order."""
        return ArchiveStore(self, [self.members[name] for name in names])


class ArchiveStore(Store):
    """Members of an archive, each read with one or two positioned reads."""

    def __init__(self, archive: Archive, members: list[Member]) -> None:
        super().__init__()
        self.archive: Archive | None = archive  # kept so that another data set of this archive shares its index
        self.blob = archive.blob
        fields = [(member.offset, member.stored, member.size, member.method, member.crc) for member in members]
        self.table = np.array(fields, dtype=np.int64).reshape(-1, 5)
        self.unpacked = np.array([is_unpacked(member.name) for member in members], dtype=bool)

    def __len__(self) -> int:
        return len(self.table)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "archive": None}

    def read(self, index: int) -> bytes:
        """The member's content, checked against its size and checksum."""
        offset, stored, size, method, crc = self.table[index].tolist()
        check_bytes(size)
        if method == _LINK:
            raise OSError("it is a link to what is not in the archive: pack the files themselves, tar -h")
        if method == _TAR:
            content = self.blob.read(offset, size)
        else:
            if size > most_inflated(stored, self.blob.max_inflated):
                raise OSError(f"it would inflate from {stored} to {size} bytes (data.max_inflated)")
            header = self.blob.read(offset, 30)
            begin = offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
            try:
                content = _inflate(self.blob.read(begin, stored), method, size)
            except (zlib.error, ValueError, EOFError) as error:
                raise OSError(f"its data in the archive is damaged: {error}") from error
        if len(content) != size:
            what = f"holds {len(content)} of its" if len(content) < size else "holds more than its"
            raise OSError(f"the archive {what} {size} bytes")
        if method != _TAR and zlib.crc32(content) != crc:
            raise OSError("its checksum in the archive does not match")
        return content

    def tail(self, index: int) -> tuple[int, bytes]:
        """Size and last 4 KiB, or all, as those of the file that was packed."""
        offset, _, size, method, _ = self.table[index].tolist()
        if self.unpacked[index]:
            return size, self.read(index)
        if method == _TAR:
            begin = max(0, size - TAIL)
            return size, self.blob.read(offset + begin, size - begin)
        return size, self.read(index)[-TAIL:]


def is_archive(path: Path) -> bool:
    """Whether the name is that of an archive that can be read in place."""
    return path.name.lower().endswith(_SUFFIXES)


_opened: weakref.WeakValueDictionary[tuple[str, int, int, int | None], Archive] = weakref.WeakValueDictionary()


def open_archive(path: Path, max_inflated: int | None = None) -> Archive:
    """Index an archive; while a data set still uses it, opening it again costs nothing.

    Args:
        path: of the archive.
        max_inflated: bytes that it, or a member of it, may inflate to; `MAX_INFLATED` when not given. What is no more
            than a hundred times its compressed size always may.

    Raises:
        UserError: it is damaged, encrypted, inflates to more than is allowed, or the disk has no room for the
            decompressed copy.
    """
    status = path.stat()
    key = (str(path.resolve()), status.st_mtime_ns, status.st_size, max_inflated)
    archive = _opened.get(key)
    if archive is None:
        try:
            archive = Archive(path, max_inflated)
        except (UserError, MemoryError):
            raise
        except Exception as error:  # damaged bytes make the readers raise nearly anything
            raise UserError(f"{path} cannot be read as an archive ({error}): fetch or pack it again.") from error
        _opened[key] = archive
    return archive


def _opener(path: Path) -> Any:
    return _OPENERS.get(path.name.lower().rsplit(".", 1)[-1])


def _decompressed(path: Path, max_inflated: int | None) -> BinaryIO:
    """Decompress to a temporary file without a name."""
    stored = path.stat().st_size
    most, written = most_inflated(stored, max_inflated), 0
    target = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (it lives as long as the data set)
    bar = progress(f"decompressing {path.name}", stored, "bytes")
    with path.open("rb") as raw, _opener(path)(raw) as source, bar as advance:
        done = 0
        while block := source.read(1 << 20):
            written += len(block)
            if written > most:
                target.close()
                raise UserError(
                    f"{path}: {stored} bytes inflate to over {most}: raise data.max_inflated, if you trust it."
                )
            try:
                target.write(block)
            except OSError as error:
                room = f"No room for the decompressed {path.name} in {tempfile.gettempdir()} ({error.strerror})"
                raise UserError(f"{room}: free some, or set TMPDIR to a larger disk.") from error
            advance(raw.tell() - done)
            done = raw.tell()
    return target


def _index(blob: Blob) -> tuple[list[Member], tuple[str, ...]]:
    if blob.path.suffix.lower() == ".zip":
        members, folders = _index_zip(blob.path)
    else:
        members, folders = _index_tar(blob)
    end = os.fstat(blob.fileno()).st_size
    if any(not 0 <= member.offset <= end - member.stored <= end for member in members):
        raise tarfile.ReadError("a member lies beyond its end")
    return [member for member in members if member.name], tuple(folders)


def _index_zip(path: Path) -> tuple[list[Member], list[str]]:
    members, folders = [], []
    _count_members(path)
    with zipfile.ZipFile(path) as file:
        for info in file.infolist():
            if info.is_dir():
                folders.append(_clean(info.filename))
            elif info.flag_bits & 1:
                raise UserError(f"{path} is encrypted ({info.filename}): pack it again without a password.")
            else:
                size = min(info.file_size, _ABSURD)
                position = (info.header_offset, info.compress_size, size, info.compress_type, info.CRC)
                members.append(Member(_clean(info.filename), *position))
    return members, folders


def _count_members(path: Path) -> None:
    """Refuse a zip of absurdly many members by what its end says, before its index takes memory."""
    with path.open("rb") as file:
        file.seek(-min(path.stat().st_size, _END_OF_ZIP), os.SEEK_END)
        end = file.read()
    place = end.rfind(b"PK\x05\x06")
    count = int.from_bytes(end[place + 10 : place + 12], "little") if place >= 0 else 0
    if count == 0xFFFF and (place := end.rfind(b"PK\x06\x06")) >= 0:
        count = int.from_bytes(end[place + 32 : place + 40], "little")
    if count > MAX_MEMBERS:
        raise UserError(f"{path} says that it has {count} members, over {MAX_MEMBERS}: unpack it, or pack it in parts.")


def _index_tar(blob: Blob) -> tuple[list[Member], list[str]]:
    if os.fstat(blob.fileno()).st_size == 0:
        raise tarfile.ReadError("empty file")
    with mmap.mmap(blob.fileno(), 0, access=mmap.ACCESS_READ) as memory:
        entries = tar_entries(memory)
    members, folders = [], []
    for name, offset, size, is_folder in entries:
        if is_folder:
            folders.append(_clean(name))
        else:
            members.append(Member(_clean(name), offset, size, size) if offset else Member(_clean(name), 0, 0, 0, _LINK))
    return members, folders


def _clean(name: str) -> str:
    """A member's name as a label: no leading slash or dot. It is never joined to a path on disk."""
    name = name.replace("\\", "/").strip("/")
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return "" if name == "." else name


def _inflate(data: bytes, method: int, size: int) -> bytes:
    """Inflate at most one byte more than the declared ``size``, whatever the data would give."""
    if method == zipfile.ZIP_STORED:
        return data
    if method == zipfile.ZIP_DEFLATED:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
    if method == zipfile.ZIP_BZIP2:
        return bz2.BZ2Decompressor().decompress(data, size + 1)
    raise OSError(f"zip compression method {method} is not supported")
