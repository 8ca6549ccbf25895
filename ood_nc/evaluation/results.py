"""The results document of a run: the long table, the run's identity, relations, choices, and scores by sample."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from ood_nc.documents import (
    COLUMNS,
    PARTS,
    distinct_name,
    is_one_set,
    measured_taps,
    one_protocol,
    plain,
    read_results,
    seed_of,
    write_results,
)
from ood_nc.errors import UserError
from ood_nc.evaluation.overview import Plots, by_tap, partial
from ood_nc.evaluation.scores_table import Samples, read_samples
from ood_nc.files import PATIENCE, atomic_path, expanded, is_being_written
from ood_nc.notebook import data_frame, html_table, short

_UNKNOWN: Row = dict.fromkeys(COLUMNS)
_PLAIN = frozenset({str, int, bool, type(None)})
SCHEMA = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()])

STRICT, PAPER, FULL_SPECTRUM = "strict", "paper", "full_spectrum"
"""The evaluation protocols."""

_SETS = {"detection": "OOD sets", "transfer": "transfer sets"}

Row = dict[str, Any]
MakeRow: TypeAlias = Callable[..., Row]
"""`make_row` with the columns that are the same for many rows filled in."""


@dataclass(repr=False)
class Results:
    """Everything one evaluation found.

    Attributes:
        rows: the long table, a dictionary a measurement with exactly the keys `COLUMNS`. ``value`` is None where the
            measurement is undefined, and ``reason`` then says why.
        identity: the run, its model, taps, data sets (with n, group, fingerprint, duplicates), versions, seconds.
        relations: correlations of collapse with detection and transfer errors (`relate`).
        choices: the tap and method each rule chooses without OOD or transfer data, and its regret (`make_choices`).
        series: histograms of scores, maps of features, and of probes the accuracy on each class.
        scores: one row a sample: ``group``, ``dataset``, ``id``, then ``score/<tap>/<detector>`` and
            ``correct/<tap>/<probe>`` (of few-shot probes the share of draws), null where a column does not concern the
            sample.

    Example:
        >>> import numpy as np
        >>> from ood_nc.evaluation import Results, evaluate
        >>> at = lambda *means: np.repeat(np.eye(3, dtype="float32")[list(means)], 20, axis=0)
        >>> noise = np.random.default_rng(0).normal(scale=0.1, size=(60, 3)).astype("float32")
        >>> arrays = {"id_train/encoder": at(0, 1, 2) + noise, "id_train/labels": np.repeat([0, 1, 2], 20),
        ...           "id_test/encoder": at(0, 1, 2) - noise, "id_test/labels": np.repeat([0, 1, 2], 20),
        ...           "ood/far/encoder": -5 * at(0, 0) - noise[:40]}
        >>> results = evaluate(features=arrays, detectors=["knn"], probes=["nearest_mean"], bootstrap=0)
        >>> results
        Results('run', 94 rows: 1 taps, 1 OOD sets, 0 transfer sets)
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> results.save(folder)
        >>> Results.load(folder).rows == results.rows
        True
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

    def samples(self) -> Samples:
        """The scores by sample, split by set.

        Raises:
            UserError: there are none.
        """
        if self.scores is None:
            name = self.identity.get("run", "The run")
            raise UserError(f"{name} has no scores.parquet, so it cannot be paired: evaluate that run again.")
        return read_samples(self.scores, self.identity)

    @property
    def main_rows(self) -> list[Row]:
        """The rows of the strict protocol, where it was measured: what compares rows never mixes two."""
        return list(one_protocol(self.rows)[0])

    @property
    def seed(self) -> int:
        """What tells the run from others of its group: the seed in its name, else the one it was evaluated with."""
        named = seed_of(str(self.identity.get("run", "")))
        return int(self.identity.get("seed") or 0) if named is None else named

    @property
    def plot(self) -> Plots:
        """Plotly figures of the strict protocol: ``results.plot.layers()``, ``results.plot.tradeoff()``."""
        return Plots(self.main_rows, self.identity)

    def to_pandas(self) -> Any:
        """The long table as a ``pandas.DataFrame``.

        Raises:
            MissingPackageError: pandas is not installed.
        """
        return data_frame({name: [row[name] for row in self.rows] for name in COLUMNS})

    def __repr__(self) -> str:
        sets = {
            kind: {row["dataset"] for row in self.rows if row["kind"] == kind and is_one_set(row)} for kind in _SETS
        }
        counts = [f"{len({row['tap'] for row in self.rows if row['tap']})} taps"]
        counts += [f"{len(sets[kind] - {'id_test'})} {name}" for kind, name in _SETS.items()]
        return f"Results({self.identity.get('run', 'run')!r}, {len(self.rows)} rows: {', '.join(counts)})"

    def _repr_html_(self) -> str:
        if not self.identity.get("taps"):  # rows alone, which say nothing of layers
            return html_table([], [], caption=repr(self))
        taps, found = by_tap(self.main_rows, self.identity)
        rows = [[tap, *(short(values.get(tap)) for values in found.values())] for tap in taps]
        caption = "; ".join([repr(self), *partial(self.main_rows, self.identity)])
        return html_table(["tap", *found], rows, caption=caption)

    def select(self, **equals: Any) -> list[Row]:
        """The rows whose columns equal the given values; a tap that was measured as another goes by both names.

        Raises:
            UserError: no such column.
        """
        unknown = set(equals) - set(COLUMNS)
        if unknown:
            raise UserError(f"No column {sorted(unknown)[0]!r} in the results; there are {', '.join(COLUMNS)}.")
        if "tap" in equals and self.identity.get("taps"):
            equals["tap"] = measured_taps(self.identity).get(equals["tap"], equals["tap"])
        return [row for row in self.rows if all(row[key] == value for key, value in equals.items())]

    def save(self, directory: str | Path) -> None:
        """Write results.json, scores.parquet and results.parquet into ``directory``: all, or (on a full disk) none."""
        directory = expanded(directory)
        parts = {name: plain(getattr(self, name)) for name in PARTS}
        scores, digest = directory / "scores.parquet", None
        with ExitStack() as places:  # each table takes its place when everything is written
            _write_table(self.table, places.enter_context(atomic_path(directory / "results.parquet")))
            if self.scores is not None:
                temporary = places.enter_context(atomic_path(scores))
                _write_table(self.scores, temporary)
                digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
            write_results(directory, {**parts, "scores": digest})
        if self.scores is None:
            # Scores of an earlier evaluation would be taken for this one's.
            scores.unlink(missing_ok=True)

    @classmethod
    def load(cls, directory: str | Path) -> Results:
        """Read what `save` wrote; what is being saved anew is read before or after it, never half of each.

        Raises:
            UserError: there are no results, they are damaged, or of another schema.
        """
        directory, deadline = expanded(directory), time.monotonic() + PATIENCE
        while True:
            saving = is_being_written(directory / "results.json")
            parts = read_results(directory)
            digest = parts.pop("scores")
            try:
                scores = None if digest is None else _read_table(directory / "scores.parquet", digest)
                return cls(**parts, scores=scores)
            except UserError:
                if not saving or time.monotonic() > deadline:
                    raise
            time.sleep(0.02)


def check_loaded(results: Sequence[Any]) -> None:
    """Refuse what are no results, such as the paths of some.

    Raises:
        UserError: naming the first.
    """
    for given in results:
        if not isinstance(given, Results):
            raise UserError(
                f"{str(given)!r} is a {type(given).__name__}, no Results: load it, Results.load(DIRECTORY)."
            )


def run_names(results: Sequence[Results]) -> list[str]:
    """The runs' names, numbered where two runs share one."""
    names: list[str] = []
    for result in results:
        names.append(distinct_name(str(result.identity.get("run", "run")), names))
    return names


def joined_rows(results: Sequence[Results]) -> list[Row]:
    """The main rows of several runs by `run_names`: those of the first run's protocol, for two are never mixed."""
    main = [result.main_rows for result in results]
    protocol = next((row["protocol"] for row in main[0]), None)
    return [
        {**row, "run": name}
        for name, rows in zip(run_names(results), main, strict=True)
        for row in rows
        if row["protocol"] == protocol
    ]


def make_row(base: Mapping[str, Any], **values: Any) -> Row:
    """A row of the long table: ``base``, then ``values``, every other column None, no NaN or infinity.

    A reason is kept only where the value is undefined.

    Raises:
        KeyError: a name is not a column.
        ValueError: the value is undefined and no reason is given.
    """
    row: Row = {**_UNKNOWN, **base, **values}
    if len(row) > len(_UNKNOWN):
        raise KeyError(f"{[*row][len(_UNKNOWN)]} is not a column of the long table")
    for key, value in row.items():
        # Most are plain as they are, and there are thousands of rows.
        if type(value) not in _PLAIN:
            row[key] = plain(value)
    if row["value"] is not None:
        row["reason"] = None
    elif values.get("value") is not None:
        row["reason"] = f"it is {values['value']}"
    elif not row["reason"]:
        raise ValueError(f"the undefined {row['metric']} needs a reason")
    return row


def reason_of(error: Exception) -> str:
    """Why a measurement failed, on one line; the type is named where the message was not written for users."""
    text = " ".join(str(error).split())
    return (text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}")[:300]


def _read_table(path: Path, digest: str) -> pa.Table:
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise OSError("its content is not what was written")
        return pq.read_table(pa.BufferReader(content))
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"Cannot read {path} ({error}): evaluate the run again.") from None


def _write_table(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, compression="zstd")
