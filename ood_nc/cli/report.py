"""``ood-nc report``."""

from __future__ import annotations

import argparse
from pathlib import Path

from ood_nc.cli.command import Command
from ood_nc.cli.seeds import report_group
from ood_nc.cli.show import say


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="an evaluated run directory, or a group of seeds")


def _execute(arguments: argparse.Namespace) -> int:
    say(f"report: {report_group(arguments.run)}")
    return 0


COMMAND = Command(
    name="report",
    summary="Write the HTML report of an evaluated run, or of a group of seeds.",
    examples="  ood-nc report runs/trial",
    add_arguments=_add_arguments,
    execute=_execute,
)
