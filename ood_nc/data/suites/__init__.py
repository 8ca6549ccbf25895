"""Benchmark suites: named collections of OOD sets and transfer tasks, one YAML file each beside this module."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from ood_nc.data.sources import locate
from ood_nc.errors import UserError, nearest


def list_suites() -> dict[str, str]:
    """Every suite by name, with what it is and how its data lies below the root."""
    return {name: " ".join(_read(name)["description"].split()) for name in _names()}


def load_suite(name: str, root: str | Path | None = None) -> dict[str, Any]:
    """The OOD sets and transfer tasks of a suite, as `DataConfig` takes them.

    Args:
        name: of the suite.
        root: folder that its sources are in. They are joined to it, so they do not depend on where the ID data is.

    Returns:
        ``{"ood": {name: {"source", "group"}}, "transfer": {name: {"train", "test"}}}``.

    Raises:
        UserError: no such suite.
    """
    suite = _read(name)
    return {section: _located(suite.get(section, {}), root) for section in ("ood", "transfer")}


def suite_id_data(name: str, root: str | Path | None = None) -> dict[str, str]:
    """The ID data of a suite, as `DataConfig` takes it: sources of ``train``, ``val`` (where it has one) and ``test``.

    Raises:
        UserError: no such suite.
    """
    return _located(_read(name)["id"], root)


def _names() -> list[str]:
    return sorted(entry.name.removesuffix(".yaml") for entry in _folder().iterdir() if entry.name.endswith(".yaml"))


def _read(name: str) -> dict[str, Any]:
    names = _names()
    if name not in names:
        raise UserError(f"No suite {name!r}.{nearest(name, names) or ' There are ' + ', '.join(names) + '.'}")
    return yaml.safe_load((_folder() / f"{name}.yaml").read_text(encoding="utf-8"))


def _folder() -> Any:
    return resources.files(__name__)


def _located(entry: Any, root: str | Path | None, key: str = "") -> Any:
    if isinstance(entry, dict):
        return {inner: _located(value, root, inner) for inner, value in entry.items()}
    return entry if root is None or key == "group" else locate(entry, root)
