"""A suite file from folders: their sources, sizes and fingerprints, so that a later check tells what has changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ood_nc.data.dataset import ImageDataset
from ood_nc.data.sources import open_dataset
from ood_nc.errors import UserError
from ood_nc.files import expanded

_PARTS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing", "eval")}


def make_suite(
    id_source: str, ood: Mapping[str, tuple[str, str]], *, root: str | Path | None = None, description: str
) -> str:
    """The text of a suite file.

    ID data that has splits is used by them: train, and val and test where both are there, else either as the test.
    Other ID data is split four to one (``::@train``, ``::@test``). Each OOD set that has labels is a transfer task too.

    Args:
        id_source: labelled ID images (`open_dataset`); of a folder the splits are found.
        ood: source and group of each OOD set, by name.
        root: folder that the sources are relative to; the suite is read with it as ``--data-dir``.
        description: what the suite is.

    Raises:
        UserError: a source cannot be opened, or ID data without labels.
    """
    sources = _id_sources(id_source, root)
    opened = {source: open_dataset(source, root=root) for source in sources.values()}
    for source, dataset in opened.items():
        if dataset.class_names is None:
            raise UserError(f"{source} has no classes: ID images need labels, one folder per class.")
    transfer: dict[str, Any] = {}
    for name, (source, _) in ood.items():
        opened[source] = open_dataset(source, root=root)
        if opened[source].class_names is not None and opened[source].num_classes > 1 and "::@" not in source:
            transfer[name] = {"train": f"{source}::@train", "test": f"{source}::@test"}
    suite = {
        "description": description,
        "id": sources,
        "ood": {name: {"source": source, "group": group} for name, (source, group) in ood.items()},
        "transfer": transfer,
        "known": {source: _known(dataset) for source, dataset in opened.items()},
    }
    return yaml.safe_dump(suite, sort_keys=False, allow_unicode=True, width=120)


def _id_sources(source: str, root: str | Path | None) -> dict[str, str]:
    folder = Path(root or ".") / expanded(source)
    found = {
        part: f"{source}::{name}"
        for part, names in _PARTS.items()
        for name in names
        if "::" not in source and (folder / name).is_dir()
    }
    if "train" not in found or len(found) == 1:
        return {"train": f"{source}::@train", "test": f"{source}::@test"}
    if "test" not in found:
        found["test"] = found.pop("val")
    return found


def _known(dataset: ImageDataset) -> dict[str, Any]:
    return {"images": len(dataset), "fingerprint": dataset.fingerprint()}
