"""Score images of any number, streaming: finished parts are kept, so that interrupted work goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from ood_nc.data import ImageStream, NoImagesError, StreamBatch
from ood_nc.deployment.detector import Detector
from ood_nc.errors import UserError
from ood_nc.files import atomic_path, write_text
from ood_nc.models import weights_hash
from ood_nc.progress import progress
from ood_nc.scores import DiscoveryCounter

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
_DISCOVERY = pa.field("discovery", pa.bool_())
_FORMATS = (".parquet", ".csv")
_PART_ROWS = 8192
_PART_SECONDS = 60.0


@dataclass(frozen=True)
class ScoringSummary:
    """What was scored.

    Attributes:
        images: all of them.
        accepted: as in-distribution.
        broken: could not be read; their rows hold the reason and no score.
        discoveries: called OOD at the false discovery rate that was asked for, or None.
        resumed: images that an earlier, interrupted call had scored.
        seconds: of this call.
    """

    images: int
    accepted: int
    broken: int
    discoveries: int | None
    resumed: int
    seconds: float


def score_images(
    detector: Detector,
    sources: Sequence[str | Path],
    output: str | Path | None = None,
    *,
    fdr: float | None = None,
    batch_size: int = 64,
    workers: int = 0,
    overwrite: bool = False,
    on_table: Callable[[pa.Table], None] | None = None,
) -> ScoringSummary:
    """Score every image of the sources, in order, holding a few batches at a time.

    Rows: id, score, p_value, accepted, prediction, error (see `SCHEMA`); with ``fdr`` also discovery: called OOD, with
    at most that share of ID images expected among those called so (Benjamini-Hochberg over the whole of this call).
    Until it is whole the output lies in parts beside its place; called again, the work goes on after the last part.

    Args:
        detector: what scores.
        sources: files, folders, archives, lists, data sets (see `ImageStream`).
        output: ``.parquet`` or ``.csv``; None keeps nothing.
        fdr: false discovery rate in (0, 1); needs an output.
        batch_size: images a forward pass.
        workers: processes that load images.
        overwrite: replace an output that is there.
        on_table: called with each batch's rows.

    Raises:
        NoImagesError: the sources hold no image.
        UserError: a source is not there; the output is there, has another ending, or cannot be written; the parts of
            an earlier call are of other images or another detector.
    """
    start = time.perf_counter()
    target = None if output is None else _target(Path(output), overwrite)
    if fdr is not None and target is None:
        raise UserError("A false discovery rate holds for a whole batch: give an output file for it.")
    if fdr is not None and not 0 < fdr < 1:
        raise UserError(f"The false discovery rate must be in (0, 1), got {fdr}.")
    stream = ImageStream([str(source) for source in sources], detector.transform, batch_size=batch_size)
    parts = None if target is None else _Parts(target, _identity(detector, stream))
    resumed = 0 if parts is None else parts.resume(stream)
    stream.skip = resumed
    counts = {"images": 0, "accepted": 0, "broken": 0}
    with progress("scoring", None) as advance:
        advance(resumed)
        try:
            for batch in stream.loader(workers):
                table = _rows(detector, batch)
                if on_table is not None:
                    on_table(table)
                if parts is None:
                    _count(table, counts)
                else:
                    parts.add(table)
                advance(len(batch))
        except BaseException:
            # What is finished is kept, whatever stopped the rest.
            if parts is not None:
                parts.flush()
            raise
    discoveries = None
    if parts is not None and target is not None:
        parts.flush()
        counts, discoveries = parts.finish(target, fdr, len(detector.calibration.scores))
    if counts["images"] == 0:
        raise NoImagesError(f"No images in {', '.join(stream.sources)}.")
    return ScoringSummary(**counts, discoveries=discoveries, resumed=resumed, seconds=time.perf_counter() - start)


def _rows(detector: Detector, batch: StreamBatch) -> pa.Table:
    reasons = dict(batch.errors)
    readable = [position for position in range(len(batch)) if position not in reasons]
    columns: dict[str, list[Any]] = {name: [None] * len(batch) for name in SCHEMA.names}
    columns["id"] = list(batch.ids)
    for position, why in reasons.items():
        columns["error"][position] = why
    if batch.images is not None:
        verdict = detector(batch.images)
        values = {
            "score": verdict.scores.tolist(),
            "p_value": verdict.p_values.tolist(),
            "accepted": verdict.accepted.tolist(),
            "prediction": verdict.predicted_names,
        }
        for name, column in values.items():
            for position, value in zip(readable, column, strict=True):
                columns[name][position] = value
    return pa.table(columns, schema=SCHEMA)


def _count(table: pa.Table, counts: dict[str, int]) -> None:
    counts["images"] += len(table)
    counts["accepted"] += sum(value is True for value in table["accepted"].to_pylist())
    counts["broken"] += len(table) - table["error"].null_count


def _target(path: Path, overwrite: bool) -> Path:
    if path.suffix.lower() not in _FORMATS:
        raise UserError(f"The output {path} must end in {' or '.join(_FORMATS)}.")
    if path.exists() and not overwrite:
        raise UserError(f"{path} is there already: give another -o, or --overwrite.")
    return path


def _identity(detector: Detector, stream: ImageStream) -> dict[str, Any]:
    """What an interrupted call must have in common with the one that goes on with its parts."""
    digest = hashlib.sha256(weights_hash(detector.model).encode())
    digest.update(detector.calibration.scores.numpy().tobytes())
    digest.update(json.dumps([member.name for member in detector.members]).encode())
    digest.update(repr((detector.calibration.tpr, detector.calibration.classes is None)).encode())
    return {"detector": digest.hexdigest(), "sources": stream.sources}


class _Parts:
    """Finished rows in small files beside the output, until all are there."""

    def __init__(self, target: Path, identity: dict[str, Any]) -> None:
        self.folder = target.with_name(f"{target.name}.parts")
        self.identity = identity
        self.pending: list[pa.Table] = []
        self.since = time.monotonic()

    @property
    def files(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.parquet"))

    def resume(self, stream: ImageStream) -> int:
        """The rows that an earlier call left; a fresh folder where there is none."""
        header = self.folder / "call.json"
        if not header.exists():
            write_text(header, json.dumps(self.identity))
            return 0
        if json.loads(header.read_text(encoding="utf-8")) != self.identity:
            raise UserError(
                f"{self.folder} holds an interrupted call of another detector or on other sources: finish that one, or "
                "remove the folder."
            )
        rows, last = 0, None
        for path in self.files:
            ids = pq.read_table(path, columns=["id"])["id"]
            rows, last = rows + len(ids), ids[-1].as_py()
        there = stream.id_at(rows - 1) if rows else None
        if rows and (there is None or there != last):
            raise UserError(
                f"The images changed since {self.folder} was written (image {rows} was {last}): remove the folder."
            )
        return rows

    def add(self, table: pa.Table) -> None:
        self.pending.append(table)
        if sum(map(len, self.pending)) >= _PART_ROWS or time.monotonic() - self.since > _PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self.pending:
            with atomic_path(self.folder / f"part-{len(self.files):08d}.parquet") as temporary:
                pq.write_table(pa.concat_tables(self.pending), temporary)
            self.pending = []
        self.since = time.monotonic()

    def finish(self, target: Path, fdr: float | None, held_out: int) -> tuple[dict[str, int], int | None]:
        """Join the parts to the output and remove them; returns the counts and the number of discoveries."""
        counts = {"images": 0, "accepted": 0, "broken": 0}
        for table in self._tables():
            _count(table, counts)
        cut = None if fdr is None else self._cut(fdr, held_out)
        found = 0 if fdr is not None else None
        if counts["images"]:
            schema = SCHEMA if cut is None else SCHEMA.append(_DISCOVERY)
            with atomic_path(target) as temporary, _writer(temporary, target.suffix, schema) as writer:
                for table in self._tables():
                    if cut is not None and found is not None:
                        called = [value is not None and value <= cut for value in table["p_value"].to_pylist()]
                        found += sum(called)
                        table = table.append_column(_DISCOVERY, pa.array(called))
                    writer.write_table(table)
        shutil.rmtree(self.folder)
        return counts, found

    def _cut(self, fdr: float, held_out: int) -> float:
        counter = DiscoveryCounter(held_out)
        for table in self._tables():
            counter.update(table["p_value"].drop_null().to_numpy())
        return counter.cut(fdr)

    def _tables(self) -> Iterator[pa.Table]:
        for path in self.files:
            yield pq.read_table(path)


def _writer(path: Path, suffix: str, schema: pa.Schema) -> Any:
    if suffix.lower() == ".csv":
        return pyarrow.csv.CSVWriter(path, schema)
    return pq.ParquetWriter(path, schema)
