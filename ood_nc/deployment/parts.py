"""Rows of scores on disk: finished parts beside the output, each under a digest, until all are there and are joined."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from ood_nc.data import ImageStream
from ood_nc.errors import UserError
from ood_nc.files import atomic_path
from ood_nc.scores import DiscoveryCounter
from ood_nc.sealed import DamagedFileError, read_sealed_bytes, write_sealed_bytes
from ood_nc.spreadsheets import as_row

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("score", pa.float64()),
        ("p_value", pa.float64()),
        ("accepted", pa.bool_()),
        ("prediction", pa.string()),
        ("error", pa.string()),
    ]
)
FORMATS = (".parquet", ".csv")
_STAMP = pa.field("stamp", pa.string())
PART_SCHEMA = SCHEMA.append(_STAMP)
_DISCOVERY = pa.field("discovery", pa.bool_())
_ROWS = 8192
_SECONDS = 60.0


class Parts:
    """Finished rows in small files beside the output.

    Args:
        target: the output; its ending says the format.
        identity: what an interrupted call must have in common with the one that goes on with its parts.
    """

    def __init__(self, target: Path, identity: str) -> None:
        self.target, self.folder = places(target)
        self.identity = identity
        self.pending: list[pa.Table] = []
        self.since = time.monotonic()

    def resume(self, stream: ImageStream) -> int:
        """The number of rows that an earlier call left; a fresh folder where there is none.

        Raises:
            UserError: they are damaged, or of other images or another detector.
        """
        header = self.folder / "call"
        if not header.exists():
            write_sealed_bytes(header, self.identity.encode())
            return 0
        if self._read(header).decode() != self.identity:
            raise UserError(
                f"{self.folder} holds an interrupted call of another detector or on other sources (or on a file that "
                "changed since): finish that one, or remove the folder."
            )
        rows, images = 0, stream.stamped()
        for table in self._tables():
            for scored in zip(table["id"].to_pylist(), table["stamp"].to_pylist(), strict=True):
                rows += 1
                if next(images, None) != scored:
                    raise UserError(
                        f"The images changed since {self.folder} was written (image {rows} of it, {scored[0]}, is gone "
                        "or replaced): remove the folder."
                    )
        return rows

    def add(self, table: pa.Table, stamps: Sequence[str]) -> None:
        """Keep the rows of a batch and the stamps of its images; now and then what came together becomes a part."""
        self.pending.append(table.append_column(_STAMP, pa.array(stamps, pa.string())))
        if sum(map(len, self.pending)) >= _ROWS or time.monotonic() - self.since > _SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the rows that are in no part yet."""
        if self.pending:
            content = pa.BufferOutputStream()
            pq.write_table(pa.concat_tables(self.pending), content)
            write_sealed_bytes(self.folder / f"part-{len(self._files()):08d}", content.getvalue().to_pybytes())
            self.pending = []
        self.since = time.monotonic()

    def finish(self, fdr: float | None, held_out: int) -> tuple[dict[str, int], int | None]:
        """Join the parts to the output and remove them; returns the counts and the number of discoveries."""
        counts = {"images": 0, "accepted": 0, "broken": 0}
        for table in self._tables():
            count(table, counts)
        cut = None if fdr is None else self._cut(fdr, held_out)
        found = 0 if fdr is not None else None
        if counts["images"]:
            schema = SCHEMA if cut is None else SCHEMA.append(_DISCOVERY)
            with atomic_path(self.target) as temporary, _writer(temporary, self.target.suffix, schema) as writer:
                for table in (whole.select(SCHEMA.names) for whole in self._tables()):
                    if cut is not None and found is not None:
                        called = [value is not None and value <= cut for value in table["p_value"].to_pylist()]
                        found += sum(called)
                        table = table.append_column(_DISCOVERY, pa.array(called))
                    writer.write_table(table if self.target.suffix.lower() == ".parquet" else _cells(table))
        # The last first: killed on the way, what is left are still the first rows, and the same call goes on from them.
        for path in reversed(self._files()):
            path.unlink()
        shutil.rmtree(self.folder)
        return counts, found

    def _cut(self, fdr: float, held_out: int) -> float:
        counter = DiscoveryCounter(held_out)
        for table in self._tables():
            counter.update(table["p_value"].drop_null().to_numpy())
        return counter.cut(fdr)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("part-*"))

    def _tables(self) -> Iterator[pa.Table]:
        for number, path in enumerate(self._files()):
            if path.name != f"part-{number:08d}":
                raise UserError(f"A part before {path} is gone: remove the folder {self.folder}.")
            yield pq.read_table(pa.BufferReader(self._read(path)))

    def _read(self, path: Path) -> bytes:
        try:
            return read_sealed_bytes(path)
        except DamagedFileError as error:
            raise UserError(f"{error} Remove the folder {self.folder}: the images are scored again.") from None


def places(target: Path) -> tuple[Path, Path]:
    """Where an output is written: the file and the folder of its parts."""
    return target, target.with_name(f"{target.name}.parts")


def count(table: pa.Table, counts: dict[str, int]) -> None:
    """Add the rows of a table to the counts of images, accepted and broken ones."""
    counts["images"] += len(table)
    counts["accepted"] += sum(value is True for value in table["accepted"].to_pylist())
    counts["broken"] += len(table) - table["error"].null_count


def _cells(table: pa.Table) -> pa.Table:
    columns = [as_row(column.to_pylist()) for column in table.columns]
    return pa.table(columns, schema=table.schema)


def _writer(path: Path, suffix: str, schema: pa.Schema) -> Any:
    if suffix.lower() == ".csv":
        return pyarrow.csv.CSVWriter(path, schema)
    return pq.ParquetWriter(path, schema)
