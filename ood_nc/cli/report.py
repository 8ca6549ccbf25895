"""``ood-nc report``."""

from __future__ import annotations

import argparse
from pathlib import Path

from ood_nc.cli.command import Command
from ood_nc.cli.show import say


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="an evaluated run directory")


def _execute(arguments: argparse.Namespace) -> int:
    from ood_nc.report import write_report

    say(f"report: {write_report(arguments.run)}")
    return 0


COMMAND = Command(
    name="report",
    summary="Write the HTML report of an evaluated run.",
    examples="  ood-nc report runs/trial",
    add_arguments=_add_arguments,
    execute=_execute,
)
