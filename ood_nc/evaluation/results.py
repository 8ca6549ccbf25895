"""The results document of a run: the long table, the run's identity, relations, choices, and scores by sample."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from ood_nc.errors import UserError
from ood_nc.files import atomic_path, write_text

SCHEMA_VERSION = 1

MEAN = "mean"
"""The data set of a row that is the mean over the sets of its group; group ``ood`` is near and far together."""

DISJOINT = " (disjoint)"
"""Ends the name of an OOD set without the images that are also in ID or show an ID class."""

SCHEMA = pa.schema(
    [
        ("run", pa.string()),
        ("seed", pa.int64()),
        ("protocol", pa.string()),
        ("tap", pa.string()),
        ("depth", pa.int64()),
        ("kind", pa.string()),
        ("dataset", pa.string()),
        ("group", pa.string()),
        ("method", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("n", pa.int64()),
        ("selected_on", pa.string()),
        ("reason", pa.string()),
    ]
)
COLUMNS = tuple(SCHEMA.names)

Row = dict[str, Any]
MakeRow: TypeAlias = Callable[..., Row]
"""`make_row` with the columns that are the same for many rows filled in."""


@dataclass
class Results:
    """Everything one evaluation found.

    Attributes:
        rows: the long table, a dictionary a measurement with exactly the keys `COLUMNS`. ``value`` is None where the
            measurement is undefined, and ``reason`` then says why.
        identity: the run, its model, taps, data sets (with n, group, fingerprint, duplicates), versions, seconds.
        relations: correlations of collapse with detection and transfer errors (`relate`).
        choices: the taps collapse alone would choose and what that costs (`choose_taps`).
        series: histograms of scores.
        scores: one row a sample: ``group``, ``dataset``, ``id``, then ``score/<tap>/<detector>`` and
            ``correct/<tap>/<probe>``, null where a column does not concern the sample.
    """

    rows: list[Row]
    identity: dict[str, Any] = field(default_factory=dict)
    relations: list[Row] = field(default_factory=list)
    choices: list[Row] = field(default_factory=list)
    series: dict[str, Any] = field(default_factory=dict)
    scores: pa.Table | None = None

    @property
    def table(self) -> pa.Table:
        """The long table as Arrow."""
        return pa.Table.from_pylist(self.rows, schema=SCHEMA)

    def select(self, **equals: Any) -> list[Row]:
        """The rows whose columns equal the given values.

        Raises:
            UserError: no such column.
        """
        unknown = set(equals) - set(COLUMNS)
        if unknown:
            raise UserError(f"No column {sorted(unknown)[0]!r} in the results; there are {', '.join(COLUMNS)}.")
        return [row for row in self.rows if all(row[key] == value for key, value in equals.items())]

    def to_document(self) -> dict[str, Any]:
        """The content of results.json: plain values, no NaN."""
        document = {
            "schema": SCHEMA_VERSION,
            "identity": self.identity,
            "rows": self.rows,
            "relations": self.relations,
            "choices": self.choices,
            "series": self.series,
        }
        return plain(document)

    def save(self, directory: str | Path) -> None:
        """Write results.parquet, scores.parquet and, last, results.json into ``directory``, each atomically."""
        directory = Path(directory)
        text = json.dumps(self.to_document(), allow_nan=False)
        _write_table(self.table, directory / "results.parquet")
        if self.scores is None:
            # Scores of an earlier evaluation would be taken for this one's.
            (directory / "scores.parquet").unlink(missing_ok=True)
        else:
            _write_table(self.scores, directory / "scores.parquet")
        write_text(directory / "results.json", text)

    @classmethod
    def load(cls, directory: str | Path) -> Results:
        """Read what `save` wrote.

        Raises:
            UserError: there are no results, they are damaged, or of a newer schema.
        """
        path = Path(directory) / "results.json"
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            schema = document["schema"]
            parts = {key: document[key] for key in ("rows", "identity", "relations", "choices", "series")}
        except FileNotFoundError:
            raise UserError(
                f"No results in {directory}: evaluate the run first (ood-nc evaluate {directory})."
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"Cannot read {path} ({error}): evaluate the run again.") from None
        if schema != SCHEMA_VERSION:
            raise UserError(f"{path} has schema {schema}, this version reads {SCHEMA_VERSION}: evaluate the run again.")
        return cls(**parts, scores=_read_table(path.with_name("scores.parquet")))


def make_row(base: Mapping[str, Any], **values: Any) -> Row:
    """A row of the long table: ``base``, then ``values``, every other column None, no NaN or infinity.

    A reason is kept only where the value is undefined.

    Raises:
        KeyError: a name is not a column.
        ValueError: the value is undefined and no reason is given.
    """
    row: Row = dict.fromkeys(COLUMNS)
    for key, value in {**base, **values}.items():
        if key not in row:
            raise KeyError(f"{key} is not a column of the long table")
        row[key] = plain(value)
    if row["value"] is not None:
        row["reason"] = None
    elif values.get("value") is not None:
        row["reason"] = f"it is {values['value']}"
    elif not row["reason"]:
        raise ValueError(f"the undefined {row['metric']} needs a reason")
    return row


def is_one_set(row: Mapping[str, Any]) -> bool:
    """Whether a row is about one whole data set: neither a mean over sets nor a set without its overlap with ID."""
    return row["dataset"] is not None and row["dataset"] != MEAN and not row["dataset"].endswith(DISJOINT)


def reason_of(error: Exception) -> str:
    """Why a measurement failed, on one line; the type is named where the message was not written for users."""
    text = " ".join(str(error).split())
    return (text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}")[:300]


def plain(value: Any) -> Any:
    """``value`` with plain containers and numbers, NaN and infinities as None, ready for JSON."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, str) or value is None or isinstance(value, bool):
        return value
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, Iterable):
        return [plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _read_table(path: Path) -> pa.Table | None:
    if not path.exists():
        return None
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"Cannot read {path} ({error}): evaluate the run again.") from None


def _write_table(table: pa.Table, path: Path) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
