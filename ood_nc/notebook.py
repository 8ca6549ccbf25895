"""How results look in a notebook: tables as HTML, and as a pandas data frame where pandas is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ood_nc.errors import MissingPackageError


def html_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "") -> str:
    """A table, every cell escaped: class and file names come from whoever made the images.

    Args:
        columns: heads.
        rows: as many cells each; None is a dash.
        caption: above the table.
    """

    def line(cells: Sequence[Any], tag: str) -> str:
        shown = ("–" if cell is None else escape(str(cell)) for cell in cells)
        return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in shown) + "</tr>"

    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    body = "".join(line(row, "td") for row in rows)
    return f"<table>{title}<thead>{line(columns, 'th')}</thead><tbody>{body}</tbody></table>"


def data_frame(columns: Mapping[str, Sequence[Any]]) -> Any:
    """A ``pandas.DataFrame`` of these columns.

    Raises:
        MissingPackageError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise MissingPackageError("to_pandas needs pandas: pip install pandas.") from None
    return pandas.DataFrame({name: list(values) for name, values in columns.items()})


def short(value: float | None) -> str | None:
    """Three significant digits."""
    return None if value is None else f"{value:.3g}"
