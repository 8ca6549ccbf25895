"""``ood-nc compare``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ood_nc.cli.command import Command
from ood_nc.cli.seeds import members, on_results
from ood_nc.cli.show import say
from ood_nc.documents import distinct_name
from ood_nc.errors import UserError
from ood_nc.files import write_lock, write_text

if TYPE_CHECKING:
    from ood_nc.evaluation import Results


def compare_runs(
    directories: list[Path], output: Path, *, first: Sequence[str] = (), formats: Sequence[str] = ()
) -> tuple[Path, str]:
    """Compare evaluated runs on the same samples and write the report.

    Args:
        directories: of the runs; the first is the reference.
        output: where the report goes, and comparison.json beside it.
        first: sentences that stand before the verdict.
        formats: of `FORMATS`: files with the standings beside the report; and ``openood``: its csv, one a run.

    Returns:
        The report's path and its verdict.
    """
    from ood_nc.evaluation import compare, save_comparison, to_openood_csv
    from ood_nc.report import write_comparison
    from ood_nc.report.comparison_tables import FORMATS, comparison_table

    document, verdict = output.with_name("comparison.json"), ""

    def write(results: list[Results]) -> Path:
        nonlocal verdict
        comparison = compare(results)
        comparison["verdicts"] = [*first, *comparison["verdicts"]]
        comparison["verdict"] = verdict = " ".join(comparison["verdicts"])
        save_comparison(comparison, document)
        path = write_comparison(directories, output, comparison)
        for kind in formats:
            if kind in FORMATS:
                write_text(output.with_suffix(FORMATS[kind]), comparison_table(comparison, kind))
                continue
            names: list[str] = []
            for directory, result in zip(directories, results, strict=True):
                names.append(distinct_name(directory.resolve().name, names))
                write_text(output.with_name(f"{output.stem}-{names[-1]}-openood.csv"), to_openood_csv(result))
        return path

    with write_lock(document):  # of two comparisons into one folder no page stands beside the other's numbers
        return on_results(directories, write), verdict


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        metavar="RUN",
        type=Path,
        nargs="+",
        help="evaluated run directories, or groups of seeds; the first is the reference",
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="the report [comparison.html beside the runs]"
    )
    parser.add_argument(
        "--format",
        choices=("csv", "markdown", "latex", "openood"),
        nargs="+",
        default=[],
        help="also write the table in these formats beside the report (openood: its csv, one a run)",
    )


def _execute(arguments: argparse.Namespace) -> int:
    from ood_nc.report.comparison_tables import FORMATS

    if len(arguments.runs) < 2:
        raise UserError("compare needs two run directories or more, got one: ood-nc compare RUN RUN")
    output = arguments.output or Path(os.path.commonpath([run.resolve() for run in arguments.runs])) / "comparison.html"
    taken = output.suffix.lower() in (".json", *FORMATS.values())  # by the numbers and the tables beside the report
    if taken or output.is_dir():
        place = output / "comparison.html" if output.is_dir() else output.with_suffix(".html")
        raise UserError(
            f"-o names the report, which {output} cannot be: give -o {place}; other formats come beside it."
        )
    runs = [member for run in arguments.runs for member in members(run)]
    path, verdict = compare_runs(runs, output, formats=arguments.format)
    say(verdict)
    say(f"report: {path}")
    return 0


COMMAND = Command(
    name="compare",
    summary="Compare evaluated runs on the same samples, grouped by seed, and write the report.",
    examples="""  ood-nc compare runs/baseline runs/controlled
  ood-nc compare runs/baseline-seeds runs/controlled-seeds -o seeds.html
  ood-nc compare runs/a runs/b runs/c --format markdown latex""",
    add_arguments=_add_arguments,
    execute=_execute,
)
