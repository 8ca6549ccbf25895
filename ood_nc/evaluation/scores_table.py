"""Scores by sample: the table that a run keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Columns = dict[str, NDArray[Any]]
Set = tuple[str, str]
"""A set of samples: its role (``id``, ``transfer``, or ``ood`` for any OOD group) and its name."""


def score_column(tap: str, detector: str) -> str:
    """The column of a detector's scores."""
    return f"score/{tap}/{detector}"


def correct_column(tap: str, probe: str) -> str:
    """The column that says whether a probe (or the head) was right."""
    return f"correct/{tap}/{probe}"


def scores_table(sets: list[tuple[str, str, tuple[str, ...], Columns]]) -> pa.Table:
    """Join the columns of all sets into one table, a row a sample, null where a column does not concern a set.

    Args:
        sets: group, data set, ids and columns (each as long as the ids) of every set.
    """
    tables = []
    for group, dataset, ids, columns in sets:
        n = len(ids)
        fixed = {"group": pa.array([group] * n, pa.string()), "dataset": pa.array([dataset] * n, pa.string())}
        fixed["id"] = pa.array(ids, pa.string())
        tables.append(pa.table(fixed | {name: pa.array(values) for name, values in columns.items()}))
    return pa.concat_tables(tables, promote_options="permissive")


@dataclass(frozen=True)
class Samples:
    """The table of one run by set and column."""

    ids: dict[Set, list[str]]
    columns: dict[tuple[Set, str], NDArray[Any]]
    groups: dict[Set, str]
    datasets: dict[Set, Mapping[str, Any]] = field(default_factory=dict)

    def get(self, chosen: Set, column: str) -> NDArray[Any] | None:
        """A column on a set, or None where it is absent or undefined on any sample."""
        return self.columns.get((chosen, column))

    def is_of_other_data(self, other: Samples, chosen: Set) -> bool:
        """Whether a set is known to be of another source and content in another run, whatever its images are named."""
        one, two = (run.datasets.get(chosen, {}) for run in (self, other))
        return all(one.get(key) and two.get(key) and one[key] != two[key] for key in ("source", "fingerprint"))


def read_samples(table: pa.Table, identity: Mapping[str, Any] | None = None) -> Samples:
    """Split a run's table by set; columns with nulls or NaN in a set are left out there.

    Args:
        table: scores by sample.
        identity: of the run, which says what each set is.
    """
    groups, datasets = table["group"].to_numpy(), table["dataset"].to_numpy()
    samples, known = Samples({}, {}, {}), (identity or {}).get("datasets", {})
    measured = [name for name in table.column_names if name.startswith(("score/", "correct/"))]
    for group, dataset in dict.fromkeys(zip(groups.tolist(), datasets.tolist(), strict=True)):
        part = table.filter(pa.array((groups == group) & (datasets == dataset)))
        chosen = (group if group in ("id", "transfer") else "ood", dataset)
        samples.ids[chosen], samples.groups[chosen] = part["id"].to_pylist(), group
        samples.datasets[chosen] = known.get(f"{dataset}/test" if group == "transfer" else dataset, {})
        for name in measured:
            column = part[name]
            if column.null_count == 0:
                values = column.to_numpy()
                if values.dtype.kind != "f" or not np.isnan(values).any():
                    samples.columns[chosen, name] = values
    return samples
