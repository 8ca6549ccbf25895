"""Where each file of a tar lies: its headers, read once."""

from __future__ import annotations

import mmap
import posixpath
import tarfile
from collections.abc import Iterator
from typing import TypeAlias

_BLOCK, _MOST_LINKS = 512, 40
_PAX_OVERRIDES = (b" path=", b" size=", b" linkpath=", b" hdrcharset=", b" GNU.sparse")

Entry: TypeAlias = tuple[str, int, int, bool]
"""Name, offset and size of the content, whether it is a folder. The offset is 0 where a link leads to no file here."""


def tar_entries(memory: mmap.mmap) -> list[Entry]:
    """Every file, folder and link of an uncompressed tar; a link lies where the file does that it leads to.

    Raises:
        tarfile.TarError: it is damaged.
    """
    entries = plain_entries(memory)
    if entries is None:
        with tarfile.open(fileobj=memory, mode="r:") as file:
            entries = list(_entries(file))
    return entries


def _entries(file: tarfile.TarFile) -> Iterator[Entry]:
    """The reference reading, by the standard library: long names, pax headers, links of both kinds."""
    places: dict[str, tuple[int, int]] = {}
    links: dict[str, tuple[str, str]] = {}  # by the name without dots: as it is written, and what it leads to
    for info in file:
        name = posixpath.normpath(info.name)
        if info.isdir():
            yield info.name, 0, 0, True
        elif info.isreg() and not info.issparse():
            places[name] = info.offset_data, info.size
            links.pop(name, None)
            yield info.name, info.offset_data, info.size, False
        elif info.islnk() or info.issym():
            beside = posixpath.dirname(name) if info.issym() else ""
            links[name] = info.name, posixpath.normpath(posixpath.join(beside, info.linkname))
    for written, target in links.values():
        for _ in range(_MOST_LINKS):
            if target not in links:
                break
            target = links[target][1]
        yield written, *places.get(target, (0, 0)), False


def plain_entries(memory: mmap.mmap) -> list[Entry] | None:
    """The files and folders, several times faster, where headers are plain; None when one is not.

    Pax headers that only comment on the next file (dates, owners) are plain too.
    """
    entries: list[Entry] = []
    position, end = 0, len(memory)
    while position < end:
        header = memory[position : position + _BLOCK]
        if header[0] == 0:
            return entries
        if len(header) < _BLOCK:
            raise tarfile.ReadError("it ends in the middle of a header")
        kind, magic = header[156:157], header[257:263]
        if kind not in b"05\0xg" or magic not in (b"ustar\0", b"ustar ") or header[124] & 0x80:
            return None
        try:
            size = int(header[124:136].strip(b" \0") or b"0", 8)
            claimed = int(header[148:156].strip(b" \0"), 8)
        except ValueError:
            return None
        if claimed != sum(header) - sum(header[148:156]) + 8 * 32:
            return None
        name = header[:100].rstrip(b"\0").decode("utf-8", "surrogateescape")
        if magic == b"ustar\0" and header[345]:
            name = header[345:500].rstrip(b"\0").decode("utf-8", "surrogateescape") + "/" + name
        position += _BLOCK
        if position + size > end:
            raise tarfile.ReadError("it ends in the middle of a file")
        if kind not in b"xg":
            entries.append((name, position, size, kind == b"5" or name.endswith("/")))
        elif any(key in memory[position : position + size] for key in _PAX_OVERRIDES):
            return None
        position += -(-size // _BLOCK) * _BLOCK
    return entries
