"""``ood-nc list``."""

from __future__ import annotations

import argparse
import csv
import inspect
from collections.abc import Callable
from fnmatch import fnmatch
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ood_nc
from ood_nc.cli.command import Command, shipped_configs
from ood_nc.cli.show import table
from ood_nc.errors import UserError

if TYPE_CHECKING:
    from ood_nc.registry import Registry


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=tuple(_TABLES), metavar="WHAT", help=", ".join(_TABLES))
    parser.add_argument("names", nargs="*", metavar="GLOB", help="only names that match; taps: BACKBONE [GLOB]")


def _execute(arguments: argparse.Namespace) -> int:
    names = arguments.names
    if arguments.what == "taps" and not names:
        raise UserError("list taps needs a backbone: ood-nc list taps resnet18 'layer*'")
    if len(names) > (2 if arguments.what == "taps" else 1):
        raise UserError(
            f"list {arguments.what} takes one glob, got {len(names)}: quote it, so that the shell leaves it alone."
        )
    columns, rows = _TABLES[arguments.what](names)
    if not rows:
        raise UserError(
            f"No {arguments.what} match {names[-1]!r}: ood-nc list {arguments.what} shows all." if names else "None."
        )
    table(f"{arguments.what} ({len(rows)})", columns, rows)
    return 0


def _matching(rows: list[list[str]], names: list[str]) -> list[list[str]]:
    return [row for row in rows if not names or fnmatch(row[0], names[0])]


def _backbones(names: list[str]) -> tuple[list[str], list[list[str]]]:
    from ood_nc.models import list_backbones

    return ["backbone"], [[name] for name in list_backbones(names[0] if names else "*")]


def _taps(names: list[str]) -> tuple[list[str], list[list[str]]]:
    from ood_nc.models import list_taps

    rows = [[tap.name, str(tap.depth), str(tap.dim), tap.pooling] for tap in list_taps(names[0])]
    return ["tap", "depth", "width", "pooling"], _matching(rows, names[1:])


def _described(
    registry: Registry[Any], names: list[str], describe: Callable[[Any], str | None] = inspect.getdoc
) -> list[list[str]]:
    """Name and description of the entries that match; a plug-in that does not load is described by what is wrong."""
    rows = []
    for name in registry:
        if not names or fnmatch(name, names[0]):
            try:
                rows.append([name, (describe(registry[name]) or "-").splitlines()[0]])
            except UserError as error:
                rows.append([name, str(error)])
    return rows


def _detectors(names: list[str]) -> tuple[list[str], list[list[str]]]:
    # Ours from a table: to import them all takes seconds. What others add only their code can describe.
    from ood_nc.registry import Registry

    table_file = Path(ood_nc.__file__).parent / "detection" / "detectors.csv"
    columns, *ours = csv.reader(table_file.read_text(encoding="utf-8").splitlines())
    rows = _matching(ours, names)
    known = {row[0] for row in ours}
    foreign = Registry("detector", "ood_nc.detectors").names(names[0] if names else "*")
    rows += [_detector(name) for name in foreign if name not in known]
    return columns, sorted(rows)


def _detector(name: str) -> list[str]:
    from ood_nc.detection import create_detector

    try:
        detector = create_detector(name)
    except UserError as error:
        return [name, "-", "-", str(error)]
    source = f"{detector.info.title} ({detector.info.venue})"
    return [name, detector.kind, ", ".join(sorted(detector.requires)) or "-", source]


def _metrics(names: list[str]) -> tuple[list[str], list[list[str]]]:
    from ood_nc.collapse import METRICS as COLLAPSE
    from ood_nc.scores import METRICS as DETECTION

    rows = [
        [f"{room}/{name}", text]
        for room, metrics in (("collapse", COLLAPSE), ("detection", DETECTION))
        for name, text in _described(metrics, names, lambda metric: metric.definition)
    ]
    return ["metric", "definition"], rows


def _registered(column: str, room: str, registry: str, names: list[str]) -> tuple[list[str], list[list[str]]]:
    return [column, "what"], _described(getattr(import_module(room), registry), names)


def _told(column: str, function: str, names: list[str]) -> tuple[list[str], list[list[str]]]:
    from ood_nc import data

    return [column, "what"], _matching([[name, text] for name, text in getattr(data, function)().items()], names)


def _configs(names: list[str]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for name, path in shipped_configs().items():
        first = path.read_text(encoding="utf-8").splitlines()[0]
        rows.append([name, first.lstrip("# ")])
    return ["config", "what"], _matching(rows, names)


_TABLES: dict[str, Callable[[list[str]], tuple[list[str], list[list[str]]]]] = {
    "backbones": _backbones,
    "taps": _taps,
    "detectors": _detectors,
    "metrics": _metrics,
    "losses": partial(_registered, "loss", "ood_nc.losses", "LOSSES"),
    "probes": partial(_registered, "probe", "ood_nc.transfer", "PROBES"),
    "trackers": partial(_registered, "tracker", "ood_nc.tracking", "TRACKERS"),
    "sources": partial(_registered, "kind of source", "ood_nc.data", "SOURCES"),
    "suites": partial(_told, "suite", "list_suites"),
    "datasets": partial(_told, "source", "list_datasets"),
    "configs": _configs,
}

COMMAND = Command(
    name="list",
    summary="Show what there is: " + ", ".join(_TABLES) + ".",
    examples="""  ood-nc list backbones 'resnet*'
  ood-nc list taps resnet18 'layer?'
  ood-nc list detectors""",
    add_arguments=_add_arguments,
    execute=_execute,
)
