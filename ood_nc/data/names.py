"""Names that any file format can hold: file names are bytes, and not all of them are text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(name: str) -> str:
    r"""A file's name as one line of text: bytes that are no UTF-8, and control characters, as ``\xe9``.

    Example:
        >>> printable("caf" + b"\xe9".decode("utf-8", "surrogateescape") + ".jpg")
        'caf\\xe9.jpg'
    """
    return _UNPRINTABLE.sub(_escape, name)


def printables(names: Iterable[str]) -> tuple[str, ...]:
    """`printable` of many."""
    found = tuple(names)
    return tuple(map(printable, found)) if _UNPRINTABLE.search("".join(found)) else found


def class_name(folder: str) -> str:
    """The class that a folder's name stands for: printable, and in Unicode's composed form (NFC).

    macOS and Linux may write one name in two forms that look alike; both are the same class.
    """
    return folder if folder.isascii() and folder.isprintable() else unicodedata.normalize("NFC", printable(folder))


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8, as Python keeps it
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
