"""``ood-nc sweep``: a sweep file of W&B, run here."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ood_nc.cli import flags
from ood_nc.cli.command import Command, find_config, read_config
from ood_nc.cli.processes import work
from ood_nc.cli.seeds import asked_of, is_reported
from ood_nc.cli.show import say
from ood_nc.cli.sweep_file import Setting, Sweep, read_sweep
from ood_nc.config import Config, load
from ood_nc.errors import UserError
from ood_nc.files import write_lock


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a sweep file, or the name of one that ships")
    parser.add_argument("--output", metavar="DIR", type=Path, default=Path("runs"), help="its folder's folder [runs]")
    parser.add_argument("--jobs", metavar="N", type=int, default=1, help="so many runs at a time [1]")


def _execute(arguments: argparse.Namespace) -> int:
    sweep = read_sweep(find_config(arguments.file, "sweep", "sweeps"))
    table = run_sweep(sweep, arguments.output / sweep.name, jobs=arguments.jobs)
    print(table.read_text(encoding="utf-8"), end="")
    say(f"table and figure: {table.parent}")
    return 0


def run_sweep(sweep: Sweep, folder: Path, *, jobs: int = 1) -> Path:
    """Make every run of a sweep that is not finished, then its table and figure.

    Args:
        sweep: what is tried.
        folder: holds a run directory a trial.
        jobs: runs at a time.

    Returns:
        The table, ``sweep.md``; ``sweep.csv`` and the figure lie beside it.

    Raises:
        UserError: runs failed; what is finished is kept, and the same command goes on. Or a run was made of a
            configuration that says otherwise now.
    """
    from ood_nc.report import write_sweep

    if jobs < 1:
        raise UserError("--jobs is at least 1.")
    runs = {trial_name(sweep, setting): setting for setting in sweep.settings}
    with write_lock(folder):
        pending = {
            name: _words(sweep, setting, folder / name)
            for name, setting in runs.items()
            if not _is_finished(folder / name, sweep.words(setting))
        }
        work(pending, jobs, of=len(runs), kept=f"What is finished is kept in {folder}: go on with the same command.")
        return write_sweep(sweep.name, {folder / name: setting for name, setting in runs.items()}, folder)


def _is_finished(directory: Path, words: Sequence[str]) -> bool:
    """Whether a trial is there as its words ask for it: their configuration is a file, which may have changed."""
    from ood_nc.training.run_directory import check_same

    if not (directory / "config.yaml").is_file():
        return (directory / "report.html").is_file()
    own, asked = load(directory / "config.yaml"), _configured(words)
    try:
        check_same(own, asked, directory)
    except UserError as error:
        changed = str(error).partition(": resume")[0]
        raise UserError(f"{changed}: change it back, or give the sweep another name or --output.") from None
    return is_reported(directory) and asked_of(own) == asked_of(asked)


def _configured(words: Sequence[str]) -> Config:
    """The configuration that ``run`` and its flags resolve to."""
    from ood_nc.cli.train import RUN

    parser = argparse.ArgumentParser(add_help=False)
    RUN.add_arguments(parser)
    overrides, rest = flags.split(list(words[1:]), set(parser._option_string_actions))
    return read_config(parser.parse_known_args(rest)[0].config, overrides)


def trial_name(sweep: Sweep, setting: Setting) -> str:
    """A name that can be read, and never that of another setting or of another command."""
    text = "-".join(f"{key.rpartition('.')[2]}_{setting[key]}" for key in sweep.varied)
    name = re.sub(r"[^A-Za-z0-9.+-]+", "_", text).strip("._-")
    whole = json.dumps([sweep.command, setting], sort_keys=True, default=str)
    mark = hashlib.sha256(whole.encode()).hexdigest()[:6]
    return f"{name[:80]}-{mark}"


def _words(sweep: Sweep, setting: Setting, directory: Path) -> list[str]:
    """The trial's own words, then where it goes and that nothing is tracked elsewhere."""
    here = [f"--output={directory.parent}", f"--experiment={directory.name}", "--tracking.log_wandb=false", "--quiet"]
    return [
        sys.executable,
        "-m",
        "ood_nc",
        *sweep.words(setting),
        *here,
        *(["--resume"] if (directory / "config.yaml").is_file() else []),
    ]


COMMAND = Command(
    name="sweep",
    summary="Make the runs of a sweep file in W&B's format here, without W&B; then its table and figure.",
    examples="""  ood-nc sweep alpha
  ood-nc sweep configs/sweeps/components.yaml --jobs 4
  wandb sweep configs/sweeps/alpha.yaml    (the same file, on any number of machines by wandb agent)""",
    add_arguments=_add_arguments,
    execute=_execute,
)
