"""``ood-nc list``."""

from __future__ import annotations

import argparse
import csv
import inspect
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ood_nc
from ood_nc.cli.command import Command, shipped_configs
from ood_nc.cli.show import table
from ood_nc.errors import UserError

if TYPE_CHECKING:
    from ood_nc.registry import Registry

_KINDS = (
    "backbones", "taps", "detectors", "metrics", "losses", "probes", "trackers", "sources", "suites",
    "datasets", "configs",
)  # fmt: skip


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=_KINDS, metavar="WHAT", help=", ".join(_KINDS))
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


def _first_line(entry: object) -> str:
    return (inspect.getdoc(entry) or "-").splitlines()[0]


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
    registry: Registry[Any], names: list[str], describe: Callable[[Any], str] | None = None
) -> list[list[str]]:
    """Name and description of the entries that match; a plug-in that does not load is described by what is wrong."""
    rows = []
    for name in registry:
        if not names or fnmatch(name, names[0]):
            try:
                rows.append([name, (describe or _first_line)(registry[name])])
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

    rows = [["collapse/" + row[0], row[1]] for row in _described(COLLAPSE, names, lambda metric: metric.definition)]
    rows += [["detection/" + row[0], row[1]] for row in _described(DETECTION, names, lambda metric: metric.definition)]
    return ["metric", "definition"], rows


def _losses(names: list[str]) -> tuple[list[str], list[list[str]]]:
    from ood_nc.losses import LOSSES

    return ["loss", "what"], _described(LOSSES, names)


def _probes(names: list[str]) -> tuple[list[str], list[list[str]]]:
    from ood_nc.transfer import PROBES

    return ["probe", "what"], _described(PROBES, names)


def _trackers(names: list[str]) -> tuple[list[str], list[list[str]]]:
    from ood_nc.tracking import TRACKERS

    return ["tracker", "what"], _described(TRACKERS, names)


def _sources(names: list[str]) -> tuple[list[str], list[list[str]]]:
    from ood_nc.data import SOURCES

    return ["kind of source", "what"], _described(SOURCES, names)


def _suites(names: list[str]) -> tuple[list[str], list[list[str]]]:
    from ood_nc.data import list_suites

    return ["suite", "what"], _matching([[name, text] for name, text in list_suites().items()], names)


def _datasets(names: list[str]) -> tuple[list[str], list[list[str]]]:
    from ood_nc.data import list_datasets

    return ["source", "what"], _matching([[name, text] for name, text in list_datasets().items()], names)


def _configs(names: list[str]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for name, path in shipped_configs().items():
        first = path.read_text(encoding="utf-8").splitlines()[0]
        rows.append([name, first.lstrip("# ")])
    return ["config", "what"], _matching(rows, names)


_TABLES = {
    "backbones": _backbones,
    "taps": _taps,
    "detectors": _detectors,
    "metrics": _metrics,
    "losses": _losses,
    "probes": _probes,
    "trackers": _trackers,
    "sources": _sources,
    "suites": _suites,
    "datasets": _datasets,
    "configs": _configs,
}

COMMAND = Command(
    name="list",
    summary="Show what there is: " + ", ".join(_KINDS) + ".",
    examples="""  ood-nc list backbones 'resnet*'
  ood-nc list taps resnet18 'layer?'
  ood-nc list detectors""",
    add_arguments=_add_arguments,
    execute=_execute,
)
