"""``ood-nc suites``: what of a benchmark is there, what overlaps, what gives it away; a suite from folders."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ood_nc.cli.command import Command, add_config_arguments, read_config
from ood_nc.cli.flags import name_of
from ood_nc.cli.show import say, table
from ood_nc.config import Config, load
from ood_nc.errors import UserError
from ood_nc.files import write_text

_GROUPS = ("near", "far", "covariate")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("check", "make"), metavar="check|make", help="what to do")
    parser.add_argument(
        "sources",
        metavar="NAME|FOLDERS",
        nargs="*",
        help="check: a suite by name, a suite file (.yaml) or a run directory; without one, the data of --config. "
        "make: the ID images, then OOD sets as SOURCE, NAME=SOURCE or near:NAME=SOURCE",
    )
    add_config_arguments(parser)
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="check: audit.json; make: the suite, .yaml")


def _execute(arguments: argparse.Namespace) -> int:
    return _check(arguments) if arguments.action == "check" else _make(arguments)


def _check(arguments: argparse.Namespace) -> int:
    from ood_nc.data.audit import audit_data
    from ood_nc.data.suites import suite_known

    config, name, output = _configured(arguments)
    if arguments.print_config:
        print(config.to_yaml(), end="")
        return 0
    if config.graphs is not None:
        raise UserError(f"{name} is a run on graphs: there are no images to check.")
    if config.multilabel is not None and Path(config.data.train).suffix.lower() in (".csv", ".parquet", ".mat"):
        raise UserError(f"{name} is a run on a table of label sets, which suites check does not read: ood-nc run does.")
    known = {} if config.data.suite is None else suite_known(config.data.suite)
    document = audit_data(config.data, name=name, known=known, workers=config.train.workers)
    table(f"{name}: the sets", ["set", "group", "images", "formats", "state"], list(map(_set_row, document["sets"])))
    if document["cues"]:
        cues = list(document["cues"][0]["by_cue"]) or ["-"]
        title = f"AUROC of cues alone, against {document['cues'][0]['against']} (0.5: they tell nothing)"
        rows = [_cue_row(entry, cues) for entry in document["cues"]]
        table(title, ["OOD set", "all", *cues], rows)
    for line in document["findings"] or ["nothing to note"]:
        say(line)
    if output is not None:
        write_text(output, json.dumps(document, indent=1, allow_nan=False) + "\n")
        say(f"audit: {output}")
    bad = [entry["name"] for entry in document["sets"] if entry["state"] != "there"]
    if bad:
        raise UserError(f"{len(bad)} of {len(document['sets'])} sets are not as they should be: {', '.join(bad)}.")
    return 0


def _configured(arguments: argparse.Namespace) -> tuple[Config, str, Path | None]:
    """The configuration whose data is checked, what it is called, and where the audit goes."""
    if len(arguments.sources) > 1 or (arguments.sources and arguments.config):
        raise UserError("suites check takes one suite or run, or --config: give one of them.")
    if not arguments.sources:
        if arguments.config is None:
            raise UserError("suites check needs a suite, a run or --config FILE (`ood-nc list suites` has the suites).")
        return read_config(arguments.config, arguments.overrides), Path(arguments.config).stem, arguments.output
    (name,) = arguments.sources
    run = Path(name)
    if (run / "config.yaml").is_file():
        return load(run / "config.yaml", arguments.overrides), run.name, arguments.output or run / "audit.json"
    from ood_nc.data.suites import suite_id_data

    data = {"data.suite": name, **{f"data.{part}": source for part, source in suite_id_data(name).items()}}
    return load(overrides={**data, **arguments.overrides}), Path(name).stem, arguments.output


def _set_row(entry: Mapping[str, Any]) -> list[str]:
    formats = ", ".join(f"{kind} {count}" for kind, count in entry.get("formats", {}).items()) or "-"
    return [entry["name"], entry["group"], str(entry["n"]), formats, entry["state"]]


def _cue_row(entry: Mapping[str, Any], cues: list[str]) -> list[str]:
    if entry["auroc"] is None:
        return [entry["name"], *["-"] * (1 + len(cues))]
    whole = f"{entry['auroc']:.2f} [{entry['low']:.2f}, {entry['high']:.2f}]"
    return [entry["name"], whole, *(f"{entry['by_cue'][cue]['auroc']:.2f}" for cue in cues)]


def _make(arguments: argparse.Namespace) -> int:
    from ood_nc.data.suites.making import make_suite

    if len(arguments.sources) < 2 or arguments.output is None:
        raise UserError("suites make needs the ID images, at least one OOD set, and -o FILE.yaml for the suite.")
    if arguments.output.suffix not in (".yaml", ".yml"):
        raise UserError(f"A suite is a YAML file: -o {arguments.output.with_suffix('.yaml')}.")
    id_source, *others = arguments.sources
    ood: dict[str, tuple[str, str]] = {}
    for word in others:
        group, name, source = _named(word)
        if name in ood:
            raise UserError(f"Two OOD sets are called {name!r}: name them, e.g. first={source}.")
        ood[name] = source, group
    root = arguments.overrides.get("data.root")
    write_text(arguments.output, make_suite(id_source, ood, root=root, description=arguments.output.stem))
    where = "" if root is None else f" --data-dir {root}"
    say(f"suite: {arguments.output} (ood-nc suites check {arguments.output}{where}; --suite in every command)")
    return 0


def _named(word: str) -> tuple[str, str, str]:
    """Group, name and source of ``SOURCE``, ``NAME=SOURCE`` or ``GROUP:NAME=SOURCE``; far when not said."""
    group, colon, rest = word.partition(":")
    if not colon or group not in _GROUPS or rest.startswith(":"):
        group, rest = "far", word
    name, equals, source = rest.partition("=")
    if not equals:
        name, source = name_of(rest), rest
    return group, name, source


COMMAND = Command(
    name="suites",
    summary="Check a benchmark's data: what is there, what overlaps, which cues give it away; or make a suite.",
    examples="""  ood-nc suites check openood-cifar10 --data-dir /data -o audit.json
  ood-nc suites check runs/trial
  ood-nc suites check --config trial.yaml --eval-limit 2000
  ood-nc suites make flowers near:weeds=weeds textures.tar -o mine.yaml --data-dir /data
  ood-nc suites check mine.yaml --data-dir /data""",
    add_arguments=_add_arguments,
    execute=_execute,
    takes_config=True,
)
