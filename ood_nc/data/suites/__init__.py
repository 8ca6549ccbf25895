"""Benchmark suites: named collections of OOD sets and transfer tasks, one YAML file each beside this module, or a
user's own file of the same form:

    description: what it is
    id: {train: SOURCE, val: SOURCE, test: SOURCE}
    ood: {NAME: {source: SOURCE, group: near}}
    transfer: {NAME: {train: SOURCE, test: SOURCE}}
    get: where its data comes from
    known: {SOURCE: {images: 9000, fingerprint: 9f86..., get: where this set comes from}}
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from ood_nc.config import load, parse_yaml
from ood_nc.data.sources import locate
from ood_nc.errors import UserError, nearest


def list_suites() -> dict[str, str]:
    """Every suite by name, with what it is and how its data lies below the root.

    Example:
        >>> "imagenet100" in list_suites()
        True
    """
    return {name: " ".join(_read(name)["description"].split()) for name in _names()}


def load_suite(name: str, root: str | Path | None = None) -> dict[str, Any]:
    """The OOD sets and transfer tasks of a suite, as `DataConfig` takes them.

    Args:
        name: of the suite, or a suite file (.yaml).
        root: folder that its sources are in. They are joined to it, so they do not depend on where the ID data is.

    Returns:
        ``{"ood": {name: {"source", "group"}}, "transfer": {name: {"train", "test"}}}``.

    Raises:
        UserError: no such suite, or the file is none.

    Example:
        >>> sorted(load_suite("openood-cifar10", root="/data")["ood"]["svhn"])
        ['group', 'source']
    """
    suite = _read(name)
    return {section: _located(suite.get(section, {}), root) for section in ("ood", "transfer")}


def suite_id_data(name: str, root: str | Path | None = None) -> dict[str, str]:
    """The ID data of a suite, as `DataConfig` takes it: sources of ``train``, ``val`` (where it has one) and ``test``.

    Raises:
        UserError: no such suite.
    """
    return _located(_read(name)["id"], root)


def suite_known(name: str) -> dict[str, dict[str, Any]]:
    """What is known of each source of a suite, by the source as the suite writes it.

    Returns:
        ``images`` and ``fingerprint`` that it should have, and ``get``, where it comes from, as far as the suite says.

    Raises:
        UserError: no such suite.
    """
    suite = _read(name)
    common = {"get": suite["get"]} if "get" in suite else {}
    sources = [*suite["id"].values(), *(entry["source"] for entry in suite.get("ood", {}).values())]
    sources += [task[part] for task in suite.get("transfer", {}).values() for part in ("train", "test") if part in task]
    return {source: {**common, **suite.get("known", {}).get(source, {})} for source in sources}


def _names() -> list[str]:
    return sorted(entry.name.removesuffix(".yaml") for entry in _folder().iterdir() if entry.name.endswith(".yaml"))


def _read(name: str) -> dict[str, Any]:
    if name.endswith((".yaml", ".yml")):
        return _read_file(Path(name))
    names = _names()
    if name not in names:
        raise UserError(f"No suite {name!r}.{nearest(name, names) or ' There are ' + ', '.join(names) + '.'}")
    return yaml.safe_load((_folder() / f"{name}.yaml").read_text(encoding="utf-8"))


def _read_file(path: Path) -> dict[str, Any]:
    try:
        suite = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except UserError as error:
        raise UserError(f"The suite {path} is not YAML, {error}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read the suite {path}: {error}.") from None
    known = {"description", "id", "ood", "transfer", "get", "known"}
    if not isinstance(suite, dict) or not isinstance(suite.get("id"), dict) or "train" not in suite["id"]:
        raise UserError(f"The suite {path} names no ID data: it needs id: {{train: SOURCE, test: SOURCE}}.")
    if unknown := sorted(map(str, suite["id"].keys() - {"train", "val", "test"})):
        raise UserError(f"Unknown key 'id.{unknown[0]}' in the suite {path}: ID data has train, val and test.")
    if unknown := sorted(map(str, suite.keys() - known)):
        raise UserError(f"Unknown key {unknown[0]!r} in the suite {path}.{nearest(unknown[0], known)}")
    if not isinstance(suite.get("known", {}), dict):
        raise UserError(f"The suite {path}: known must hold what is known of each SOURCE, by source.")
    try:
        data = load(
            overrides={"data": {**suite["id"], **{key: suite.get(key, {}) for key in ("ood", "transfer")}}}
        ).data
    except UserError as error:
        raise UserError(f"The suite {path}: {error}") from None
    sets = {key: {name: one.model_dump() for name, one in getattr(data, key).items()} for key in ("ood", "transfer")}
    return {**suite, **sets}


def _folder() -> Any:
    return resources.files(__name__)


def _located(entry: Any, root: str | Path | None, key: str = "") -> Any:
    if isinstance(entry, dict):
        return {inner: _located(value, root, inner) for inner, value in entry.items()}
    return entry if root is None or key == "group" else locate(entry, root)
