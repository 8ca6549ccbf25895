"""The audit of a benchmark as one plain document: what text, JSON and the report are made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from ood_nc.config import DataConfig
from ood_nc.data.audit.cues import cue_detection
from ood_nc.data.audit.findings import findings
from ood_nc.data.audit.looks import Looks, evenly, look
from ood_nc.data.audit.near_duplicates import find_near_duplicates
from ood_nc.data.dataset import ImageDataset
from ood_nc.data.layout import NoImagesError
from ood_nc.data.overlap import Role, find_overlaps
from ood_nc.data.run_data import open_configured, task_sources, with_suite
from ood_nc.data.scan import scan, shared_class_names
from ood_nc.errors import UserError

SCHEMA = 1
TRAIN, VALIDATION, TEST = "ID train", "ID validation", "ID test"
_ROLES: dict[str, Role] = {TRAIN: "fit", VALIDATION: "choose"}
_LISTED = 100
_CUE_IMAGES = 2000


@dataclass(frozen=True)
class _Named:
    """A set that a configuration names: near, far, covariate, id or transfer."""

    name: str
    group: str
    source: str
    limit: int | None = None
    most: int | None = None


def audit_data(
    config: DataConfig, *, name: str, known: Mapping[str, Mapping[str, Any]] | None = None, workers: int = 0
) -> dict[str, Any]:
    """Look at every image of every set that the configuration names.

    ID and OOD sets are compared with each other, and the two parts of each transfer task. Covariate-shifted sets show
    ID classes, changed by intention: they are neither compared nor searched for cues.

    Args:
        config: the data section of a run; its limits apply.
        name: of the suite or run, for the document.
        known: by source, what a suite file says of it: ``images``, ``fingerprint``, ``get``.
        workers: threads that decode images.

    Returns:
        ``schema``, ``name`` and

        - ``sets``: of each its ``state`` (``there``, ``changed``, ``empty``, ``unreadable``) with a ``reason``, ``n``,
          ``fingerprint``, broken and absent files, copies inside it, formats, notes;
        - ``shared``: of two sets with something in common the ``kind`` (``copies``, ``near``, ``classes``), how many of
          the ``n`` images (or classes) of ``second`` it concerns, and examples;
        - ``cues``: of each near and far set, what `cue_detection` finds against ID test;
        - ``findings``: all of it in words, a line each.
    """
    expected = known or {}
    sets: dict[str, ImageDataset] = {}
    entries: list[dict[str, Any]] = []
    looks: dict[str, Looks] = {}
    named = list(_named(config))
    for one in named:
        entry: dict[str, Any] = {"name": one.name, "group": one.group, "source": one.source}
        try:
            dataset = open_configured(config, one.source, limit=one.limit, most=one.most)
        except UserError as error:
            state = "empty" if isinstance(error, NoImagesError) else "unreadable"
            entry |= {"state": state, "reason": str(error), "n": 0}
        else:
            sets[one.name], looks[one.name] = dataset, look(dataset, workers=workers)
            entry |= _described(dataset, looks[one.name], expected.get(one.source, {}))
        get = expected.get(one.source, {}).get("get")
        entries.append(entry | ({"get": get} if get and entry["state"] != "there" else {}))
    groups = {one.name: one.group for one in named}
    document = {
        "schema": SCHEMA,
        "name": name,
        "sets": entries,
        "shared": [*_shared(sets, looks, groups), *_shared_classes(sets, groups)],
        "cues": _cues(looks, groups),
    }
    return document | {"findings": findings(document)}


def _named(config: DataConfig) -> Iterator[_Named]:
    yield _Named(TRAIN, "id", config.train, config.limit)
    if config.val is not None:
        yield _Named(VALIDATION, "id", config.val, most=config.eval_limit)
    if config.test is not None:
        yield _Named(TEST, "id", config.test, most=config.eval_limit)
    ood, transfer = with_suite(config)
    for name, entry in ood.items():
        yield _Named(name, entry.group, entry.source, most=config.eval_limit)
    for name, task in transfer.items():
        for part, source in zip(("train", "test"), task_sources(task), strict=True):
            yield _Named(f"{name}/{part}", "transfer", source, most=config.eval_limit)


def _described(dataset: ImageDataset, seen: Looks, expected: Mapping[str, Any]) -> dict[str, Any]:
    report = scan(dataset, decode=False)
    absent = [name for name, why in seen.broken if why == "no such file"]
    broken = [[name, why] for name, why in seen.broken if why != "no such file"]
    entry = {
        "state": "there",
        "reason": None,
        "n": len(dataset),
        "fingerprint": dataset.fingerprint(),
        "classes": dataset.num_classes or None,
        "absent": {"count": len(absent), "first": absent[:_LISTED]},
        "broken": {"count": len(broken), "first": broken[:_LISTED]},
        "copies": {"count": len(report.duplicates), "first": [list(pair) for pair in report.duplicates[:_LISTED]]},
        "indistinct": int((~seen.distinct).sum()),
        "formats": seen.formats,
        "notes": list(report.notes) + [f"class {name!r} has no images" for name in report.empty_classes],
    }
    return entry | _changed(entry, expected)


def _changed(entry: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, Any]:
    if expected.get("images", entry["n"]) != entry["n"]:
        return {"state": "changed", "reason": f"{entry['n']} images, the suite says {expected['images']}"}
    if expected.get("fingerprint", entry["fingerprint"]) != entry["fingerprint"]:
        return {"state": "changed", "reason": "its names, labels or files are not those that the suite was made from"}
    return {}


def _shared(
    sets: Mapping[str, ImageDataset], looks: Mapping[str, Looks], groups: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """Copies and near duplicates, set by set."""
    compared = [name for name in sets if groups[name] not in ("transfer", "covariate")]
    tasks: dict[str, list[str]] = {}
    for name in sets:
        if groups[name] == "transfer":
            tasks.setdefault(name.rpartition("/")[0], []).append(name)
    for together in (compared, *tasks.values()):
        roles: dict[str, Role] = {
            name: "fit" if groups[name] == "transfer" and name.endswith("/train") else _ROLES.get(name, "test")
            for name in together
        }
        copies = {(one.first, one.second): one for one in find_overlaps({name: sets[name] for name in together}, roles)}
        for first, second in combinations(together, 2):
            found, of = copies.get((first, second)), {"first": first, "second": second, "n": len(sets[second])}
            if found:
                yield {"kind": "copies", **of, "count": len(found.ids), "examples": list(found.ids[:_LISTED])}
            exact = set(found.ids) if found else set()
            pairs = [
                {
                    "second": sets[second].ids[pair.second],
                    "first": sets[first].ids[pair.first],
                    "similarity": round(pair.similarity, 4),
                    "mirrored": pair.mirrored,
                }
                for pair in find_near_duplicates(looks[first], looks[second])
                if sets[second].ids[pair.second] not in exact
            ]
            if pairs:
                yield {"kind": "near", **of, "count": len(pairs), "examples": pairs[:_LISTED]}


def _shared_classes(sets: Mapping[str, ImageDataset], groups: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for name in [name for name in sets if groups[name] in ("near", "far") and TRAIN in sets]:
        classes = shared_class_names(sets[TRAIN], sets[name])
        if classes:
            of = {"first": TRAIN, "second": name, "n": sets[name].num_classes}
            yield {"kind": "classes", **of, "count": len(classes), "examples": classes[:_LISTED]}


def _cues(looks: Mapping[str, Looks], groups: Mapping[str, str]) -> list[dict[str, Any]]:
    reference = next((name for name in (TEST, VALIDATION, TRAIN) if name in looks), None)
    if reference is None:
        return []

    def some(name: str) -> Any:
        cues = looks[name].cues
        return cues[evenly(range(len(cues)), _CUE_IMAGES)]

    return [
        {"name": name, "group": groups[name], "against": reference, **cue_detection(some(reference), some(name))}
        for name in looks
        if groups[name] in ("near", "far")
    ]
