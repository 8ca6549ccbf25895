"""Score images of any number, streaming: finished parts are kept, so that interrupted work goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ood_nc.data import ImageStream, NoImagesError, StreamBatch
from ood_nc.deployment.detector import Detector
from ood_nc.deployment.parts import FORMATS, PART_SCHEMA, SCHEMA, Parts, count, places
from ood_nc.errors import UserError
from ood_nc.files import expanded, write_lock
from ood_nc.models import weights_hash
from ood_nc.progress import progress


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

    Example:
        >>> import torch
        >>> from ood_nc.data import eval_transform, open_dataset
        >>> from ood_nc.deployment import fit_detector, score_images
        >>> from ood_nc.models import ControlledModel
        >>> model = ControlledModel("test_vit", 10, img_size=32).eval()
        >>> prepare = eval_transform(model.preprocessing)
        >>> images = open_dataset("bundled/digits-id::test").with_transform(prepare)
        >>> train = open_dataset("bundled/digits-id::train").with_transform(prepare)
        >>> detector = fit_detector(model, train, images, detectors=["mahalanobis"])
        >>> rows = []
        >>> summary = score_images(detector, ["bundled/digits-id::test"], on_table=rows.append)
        >>> summary.images == sum(len(table) for table in rows)
        True
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
    In a CSV file text that a spreadsheet would take for a formula begins with an apostrophe (`ood_nc.spreadsheets`).

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
        UserError: no source is there; the output is there, has another ending, cannot be written, or another process
            writes it; the parts of an earlier call are damaged, or of other images or another detector.
        KeyboardInterrupt: its argument says what is kept.

    Example:
        >>> import torch
        >>> from ood_nc.data import eval_transform, open_dataset
        >>> from ood_nc.deployment import fit_detector, score_images
        >>> from ood_nc.models import ControlledModel
        >>> model = ControlledModel("test_vit", 10, img_size=32).eval()
        >>> prepare = eval_transform(model.preprocessing)
        >>> images = open_dataset("bundled/digits-id::test").with_transform(prepare)
        >>> train = open_dataset("bundled/digits-id::train").with_transform(prepare)
        >>> detector = fit_detector(model, train, images, detectors=["mahalanobis"])
        >>> summary = score_images(detector, ["bundled/digits-id::test"])
        >>> summary.images, summary.broken
        (300, 0)
    """
    if fdr is not None and output is None:
        raise UserError("A false discovery rate holds for a whole batch: give an output file for it.")
    if fdr is not None and not 0 < fdr < 1:
        raise UserError(f"The false discovery rate must be in (0, 1), got {fdr}.")
    written = [] if output is None else places(Path(output))
    stream = ImageStream(list(map(str, sources)), detector.transform, batch_size=batch_size, without=written)
    if output is None:
        return _score(detector, stream, None, None, workers, on_table)
    target = Path(output)
    if target.suffix.lower() not in FORMATS:
        raise UserError(f"The output {target} must end in {' or '.join(FORMATS)}.")
    with write_lock(target):
        parts = Parts(target, _identity(detector, stream))
        # Parts beside an output: a call that was to write it, and was killed before it had taken them away.
        if target.exists() and not overwrite and not parts.folder.exists():
            raise UserError(f"{target} is there already: give another -o, or --overwrite.")
        return _score(detector, stream, parts, fdr, workers, on_table)


def _score(
    detector: Detector,
    stream: ImageStream,
    parts: Parts | None,
    fdr: float | None,
    workers: int,
    on_table: Callable[[pa.Table], None] | None,
) -> ScoringSummary:
    start = time.perf_counter()
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
                    count(table, counts)
                else:
                    parts.add(table, batch.stamps)
                advance(len(batch))
        except BaseException as error:
            # What is finished is kept, whatever stopped the rest.
            if parts is not None:
                parts.flush()
            if parts is not None and isinstance(error, KeyboardInterrupt):
                kept = f"What is scored is kept in {parts.folder}: the same command goes on with it."
                raise KeyboardInterrupt(kept) from None
            raise
    discoveries = None
    if parts is not None:
        parts.flush()
        counts, discoveries = parts.finish(fdr, len(detector.calibration.scores))
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


def _identity(detector: Detector, stream: ImageStream) -> str:
    """What an interrupted call must have in common with the one that goes on with its parts."""
    digest = hashlib.sha256(weights_hash(detector.model).encode())
    digest.update(detector.calibration.scores.numpy().tobytes())
    digest.update(json.dumps([member.name for member in detector.members]).encode())
    digest.update(repr((detector.calibration.tpr, detector.calibration.classes is None)).encode())
    digest.update(json.dumps(stream.sources).encode())
    for path in (expanded(source.partition("::")[0]) for source in stream.sources):
        if path.is_file():  # an archive of the same name and members may hold other images by now
            digest.update(repr((path.stat().st_size, path.stat().st_mtime_ns)).encode())
    digest.update(repr((stream.pixels, PART_SCHEMA.names)).encode())
    return digest.hexdigest()
