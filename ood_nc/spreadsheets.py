"""Text in CSV files, which people open in spreadsheets."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from typing import Any

_FORMULA = re.compile("[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


def as_cell(value: Any) -> Any:
    """A value of a CSV file that no spreadsheet takes for a formula.

    Text that starts with ``=``, ``+``, ``-``, ``@`` (also in full width), a tab or a line end gets an apostrophe in
    front, which spreadsheets read as "this is text" (OWASP, CSV Injection). Everything else, numbers first of all, is
    as it was. File names and class names come from whoever made the images, so every CSV file goes through here.

    Example:
        >>> [as_cell(value) for value in ("=1+1", "cat", -1.5)]
        ["'=1+1", 'cat', -1.5]
    """
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def as_row(values: Iterable[Any]) -> list[Any]:
    """`as_cell` of each value."""
    return [as_cell(value) for value in values]


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """A CSV file of these rows, each value through `as_cell`."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(map(as_row, rows))
    return text.getvalue()
