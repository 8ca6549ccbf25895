"""``ood-nc figures``."""

from __future__ import annotations

import argparse
from pathlib import Path

from ood_nc.cli.command import Command
from ood_nc.cli.seeds import members
from ood_nc.cli.show import say
from ood_nc.files import write_lock


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="evaluated runs, or groups of seeds")
    parser.add_argument(
        "--output", metavar="DIR", type=Path, help="where the files go [figures, in the run or where you are]"
    )
    parser.add_argument(
        "--protocol", choices=("strict", "paper"), default="strict", help="whose measurements; paper has its own taps"
    )


def _execute(arguments: argparse.Namespace) -> int:
    from ood_nc.report import draw_figures

    runs = [run for path in arguments.runs for run in members(path)]
    name = "figures" if arguments.protocol == "strict" else f"figures-{arguments.protocol}"
    folder = arguments.output or (arguments.runs[0] / name if len(arguments.runs) == 1 else Path(name))
    with write_lock(folder / "figures"):
        files, missing = draw_figures(runs, folder, protocol=arguments.protocol)
    for reason in missing:
        say(reason)
    say(f"{len(files)} files in {folder}")
    return 0


COMMAND = Command(
    name="figures",
    summary="Write the figures of one run or of several as SVG, PDF and CSV.",
    examples="""  ood-nc figures runs/trial
  ood-nc figures runs/trial --protocol paper
  ood-nc figures runs/baseline runs/ours --output paper/figures""",
    add_arguments=_add_arguments,
    execute=_execute,
)
