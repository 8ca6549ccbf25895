"""The results document of a run (results.json): its schema, and the one way to write and to read it.

Reports, comparisons and trackers read this document and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ood_nc.errors import UserError
from ood_nc.files import write_text

SCHEMA_VERSION = 1

COLUMNS = {
    "run": "string",
    "seed": "int64",
    "protocol": "string",
    "tap": "string",
    "depth": "int64",
    "kind": "string",
    "dataset": "string",
    "group": "string",
    "method": "string",
    "metric": "string",
    "value": "double",
    "low": "double",
    "high": "double",
    "n": "int64",
    "selected_on": "string",
    "reason": "string",
}
"""The columns of the long table with Arrow's names of their types."""

PARTS = {"identity": dict, "rows": list, "relations": list, "choices": list, "series": dict}

MEAN = "mean"
"""The data set of a row that is the mean over the sets of its group; group ``ood`` is near and far together."""

DISJOINT = " (disjoint)"
"""Ends the name of an OOD set without the images that are also in ID or show an ID class."""

OOD_GROUPS = ("near", "far")
"""The groups that are to be told from ID; a covariate-shifted set shows ID classes and is reported apart."""


_Key = TypeVar("_Key", bound=Hashable)
_LISTED = 6
_SEED = re.compile(r"[-_. ]*seed[-_]?(\d+)")


def is_one_set(row: Mapping[str, Any]) -> bool:
    """Whether a row is about one whole data set: neither a mean over sets nor a set without its overlap with ID."""
    return row["dataset"] is not None and row["dataset"] != MEAN and not row["dataset"].endswith(DISJOINT)


def sets_of_means(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[Any, ...], frozenset[str]]:
    """The data sets that each mean is over, by its `mean_key`.

    Args:
        rows: the long table of one run.
    """
    found: dict[tuple[Any, ...], set[str]] = {}
    for row in rows:
        if row["value"] is not None and row["kind"] in ("detection", "transfer") and is_one_set(row):
            for group in (row["group"], "ood") if row["group"] in OOD_GROUPS else (row["group"],):
                found.setdefault(mean_key({**row, "group": group}), set()).add(row["dataset"])
    return {key: frozenset(sets) for key, sets in found.items()}


def mean_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells the mean in a row from other means over sets, whatever its metric."""
    return tuple(row[name] for name in ("protocol", "kind", "tap", "method", "group"))


def lacking(sets: Mapping[_Key, Collection[str]]) -> dict[_Key, str]:
    """What each of several means is not over that another one is; those that are over all are not in it."""
    return {key: _listed(names) for key, names in _missing(sets).items()}


def _missing(sets: Mapping[_Key, Collection[str]]) -> dict[_Key, tuple[str, ...]]:
    every = list(dict.fromkeys(name for found in sets.values() for name in sorted(found)))
    missing = {key: tuple(name for name in every if name not in found) for key, found in sets.items()}
    return {key: names for key, names in missing.items() if names}


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def partial_means(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Which means are without a set that others of their kind are over, a line for each method and such sets.

    Args:
        rows: the long table of one run, of one protocol.
    """
    by_group: dict[str, dict[tuple[str, str], frozenset[str]]] = {}
    for (_, _, tap, method, group), sets in sets_of_means(rows).items():
        if group not in OOD_GROUPS:  # whose sets are in the mean over all OOD sets too
            by_group.setdefault(group, {})[method, tap] = sets
    taps: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for places in by_group.values():
        for (method, tap), names in _missing(places).items():
            taps.setdefault((method, names), []).append(tap)
    return [
        f"the means of {method} at {_listed(at)} are without {_listed(names)}" for (method, names), at in taps.items()
    ]


def measured_taps(identity: Mapping[str, Any]) -> dict[str, str]:
    """The name under which each tap was measured: its own, or that of a tap that is the same tensor (its alias)."""
    names = {tap["name"]: tap["name"] for tap in identity["taps"]}
    return names | {alias: tap["name"] for tap in identity["taps"] for alias in tap.get("aliases") or ()}


def distinct_name(name: str, taken: Sequence[str]) -> str:
    """The name of a run, numbered where others have it: ``trial (2)``."""
    like = [other for other in taken if other == name or re.fullmatch(re.escape(name) + r" \(\d+\)", other)]
    return f"{name} ({len(like) + 1})" if like else name


def group_of(name: str) -> str:
    """The name of a run without its seed: what is equal is one group. A name that is a seed alone stays as it is."""
    group = _SEED.sub("", name)
    return group if re.sub(r" \(\d+\)$", "", group) else name


def seed_of(name: str) -> int | None:
    """The seed in the name of a run, None where it names none."""
    found = _SEED.search(name)
    return None if found is None else int(found[1])


def write_results(directory: Path, parts: Mapping[str, Any]) -> None:
    """Write results.json, atomically, with the schema's version and a digest of everything in it.

    Args:
        directory: of the run.
        parts: what `PARTS` names, as plain values, and ``scores``, the digest of the scores beside it or None.
    """
    document = {"schema": SCHEMA_VERSION, **{name: parts[name] for name in (*PARTS, "scores")}}
    write_text(directory / "results.json", json.dumps(seal(document), allow_nan=False))


def seal(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with the digest of everything else in it."""
    content = {key: value for key, value in document.items() if key != "digest"}
    return {**content, "digest": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}


def read_results(directory: Path) -> dict[str, Any]:
    """Read what `write_results` wrote: the parts that `PARTS` names, and ``scores``.

    The digest tells damage by chance, not a change by someone who writes a new digest too.

    Raises:
        UserError: there are no results, they are damaged, incomplete, or of another schema; one line.
    """
    path = directory / "results.json"
    if not path.is_file():
        raise UserError(f"No results.json in {directory}: evaluate the run first (ood-nc evaluate {directory}).")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise _damaged(path, f"line {error.lineno} is not JSON: {error.msg}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, str(error) or type(error).__name__) from None
    check_schema(document, str(path))
    for name, kind in PARTS.items():
        if not isinstance(document.get(name), kind):
            raise _damaged(path, f"its {name} are missing")
    _check_rows(document["rows"], path)
    if document.get("digest") != seal(document)["digest"]:
        raise _damaged(path, "its content is not what was written")
    return {name: document.get(name) for name in (*PARTS, "scores")}


def check_schema(document: Any, where: str) -> None:
    """Refuse what is not a document of the schema this version knows.

    Raises:
        UserError: one line.
    """
    schema = document.get("schema") if isinstance(document, Mapping) else None
    if not isinstance(schema, int):
        raise UserError(f"{where} does not name its schema: it is no results document; evaluate the run again.")
    if schema != SCHEMA_VERSION:
        advice = "install a newer ood_nc" if schema > SCHEMA_VERSION else "evaluate the run again"
        raise UserError(f"{where} has schema {schema}, this version reads {SCHEMA_VERSION}: {advice}.")


def plain(value: Any) -> Any:
    """``value`` with plain containers and numbers, NaN and infinities as None, ready for JSON."""
    # Scalars first: rows hold little else.
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float) and not hasattr(value, "tolist"):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, Iterable):
        return [plain(inner) for inner in value]
    return value


def one_protocol(rows: Sequence[Mapping[str, Any]]) -> tuple[Sequence[Any], list[str]]:
    """The rows of the strict protocol (else of the first), so that numbers of two protocols never share a line."""
    protocols = list(dict.fromkeys(row["protocol"] for row in rows))
    if len(protocols) < 2:
        return rows, []
    kept = "strict" if "strict" in protocols else protocols[0]
    return [row for row in rows if row["protocol"] == kept], [name for name in protocols if name != kept]


def _check_rows(rows: Sequence[Any], path: Path) -> None:
    for number, row in enumerate(rows):
        missing = [name for name in COLUMNS if name not in row] if isinstance(row, dict) else list(COLUMNS)
        if missing:
            raise _damaged(path, f"row {number} lacks the column {missing[0]!r}")
        if row["metric"] == "fpr95":
            raise _damaged(path, f"row {number} is a bare 'fpr95': its name must say which side is positive")


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"Cannot read {path} ({' '.join(why.split())[:200]}): evaluate the run again.")
