"""What an audit found, a line each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def findings(document: Mapping[str, Any]) -> list[str]:
    """The findings of `audit_data`'s document; none where all is well."""
    return [
        *(f"{entry['name']}: {line}" for entry in document["sets"] for line in _of_set(entry)),
        *(_of_shared(entry) for entry in document["shared"]),
        *(f"{entry['name']}: {_of_cues(entry)}" for entry in document["cues"] if entry["told_by"]),
    ]


def _of_set(entry: Mapping[str, Any]) -> Iterator[str]:
    if entry["state"] != "there":
        yield f"{entry['state']}: {entry['reason']}" + (f" Get it: {entry['get']}" if "get" in entry else "")
    if entry["state"] in ("empty", "unreadable"):
        return
    n = entry["n"]
    if entry["absent"]["count"]:
        yield f"{entry['absent']['count']} of {n} files are not there (first: {entry['absent']['first'][0]})"
    if entry["broken"]["count"]:
        first, why = entry["broken"]["first"][0]
        yield f"{entry['broken']['count']} of {n} images cannot be read (first: {first}, {why})"
    if entry["copies"]["count"]:
        name, original = entry["copies"]["first"][0]
        yield f"{entry['copies']['count']} of {n} images are copies inside the set (first: {name} of {original})"
    yield from entry["notes"]


def _of_shared(entry: Mapping[str, Any]) -> str:
    first, second, count, n = (entry[key] for key in ("first", "second", "count", "n"))
    if entry["kind"] == "classes":
        listed = ", ".join(entry["examples"][:8]) + (", ..." if count > 8 else "")
        return f"{second}: {count} of {n} classes are also classes of {first} ({listed})"
    if entry["kind"] == "copies":
        return f"{second}: {count} of {n} images are also in {first} (first: {entry['examples'][0]})"
    pair = entry["examples"][0]
    how = f"{pair['similarity']:.3f}{', mirrored' if pair['mirrored'] else ''}"
    shown = f"first: {pair['second']} and {pair['first']}, correlation {how}"
    return f"{second}: {count} of {n} images nearly equal one of {first} ({shown})"


def _of_cues(entry: Mapping[str, Any]) -> str:
    by = ", ".join(f"{name} {entry['by_cue'][name]['auroc']:.2f}" for name in entry["told_by"])
    whole = f"AUROC {entry['auroc']:.2f} [{entry['low']:.2f}, {entry['high']:.2f}]"
    return f"cues alone tell it from {entry['against']}, {whole}: {by}"
