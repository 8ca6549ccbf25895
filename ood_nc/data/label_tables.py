"""Tables of images and the labels that each has, as CSV or Parquet."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from ood_nc.data.names import class_name
from ood_nc.errors import UserError

SEPARATOR = "|"
TABLES = (".csv", ".parquet")
_TEXT = pa.csv.ConvertOptions(column_types={"path": pa.string(), "labels": pa.string()})
_INDICATORS = {"0", "1", "0.0", "1.0", "False", "True"}


def is_table(path: str | Path) -> bool:
    """Whether the name is that of a table."""
    return Path(path).suffix.lower() in TABLES


def read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """The column ``path`` and the labels in the column ``labels``, one image a row.

    Labels are text, in Unicode's composed form as class folders are; of a list what is null is none.

    Raises:
        UserError: no such file, no such columns, an image without a path or a label or in two rows, or 0 and 1 for each
            label in the place of labels.
    """
    try:
        csv = path.suffix.lower() == ".csv"
        table = pa.csv.read_csv(path, convert_options=_TEXT) if csv else pa.parquet.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"Cannot read {path}: {' '.join(str(error).split())[:150]}.") from None
    if any(table.column_names.count(column) != 1 for column in ("path", "labels")):
        raise UserError(f"{path} needs the columns path and labels; it has {', '.join(table.column_names)}.")
    files = ["" if value is None else str(value) for value in table["path"].to_pylist()]
    if "" in files:
        raise UserError(f"{path}: row {files.index('') + 1} has no path: leave it out.")
    given = [_split(value) for value in table["labels"].to_pylist()]
    empty = next((file for file, labels in zip(files, given, strict=True) if not labels), None)
    if empty is not None or not files:
        raise UserError(f"{path}: {empty or 'it'} has no label: leave such images out.")
    counts = Counter(map(os.path.normpath, files))
    twice = next((file for file, count in counts.items() if count > 1), None)
    if twice is not None:  # a row a label, say: each would be an image without the other labels
        raise UserError(f"{path}: {twice} stands in several rows: give an image one, its labels joined by {SEPARATOR}.")
    if _are_indicators(given):
        raise UserError(f"{path}: labels holds 0 or 1 for each label: give the labels that an image has, by name.")
    return files, given


def _are_indicators(given: list[list[str]]) -> bool:
    """Whether all rows are 0 and 1, as many in each; of labels with these names each row has each once, in order."""
    alike = len({len(row) for row in given}) == 1 and all(_INDICATORS.issuperset(row) for row in given)
    return alike and len(given[0]) > 1 and any(row != sorted(set(row)) for row in given)


def _split(value: object) -> list[str]:
    parts = value if isinstance(value, list) else str(value if value is not None else "").split(SEPARATOR)
    labels = [class_name(str(part).strip()) for part in parts if part is not None]
    return [label for label in labels if label]
