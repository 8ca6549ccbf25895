"""``ood-nc run --seeds``: one run a seed in a folder of their own, the group."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ood_nc.cli.command import find_config
from ood_nc.cli.evaluating import check_evaluation
from ood_nc.cli.processes import work
from ood_nc.cli.show import say
from ood_nc.config import Config, load
from ood_nc.documents import read_results
from ood_nc.errors import UserError
from ood_nc.files import write_lock, write_text

if TYPE_CHECKING:
    from ood_nc.evaluation import Results

GROUP = "group.yaml"


def run_seeds(path: str | None, overrides: dict[str, Any], seeds: Sequence[int], *, jobs: int, resume: bool) -> Path:
    """Train, evaluate and report one run a seed, each in a process of its own, then all of them together.

    Args:
        path: the configuration; a resumed group brings its own.
        overrides: dotted keys that differ from it.
        seeds: each once.
        jobs: processes at a time; where there are several GPUs each has its own.
        resume: go on with a group: what is finished is left, what is not goes on.

    Returns:
        The group's folder.

    Raises:
        UserError: the group is there already, or is not; a run failed.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after every run has stopped.
    """
    if "train.seed" in overrides or len(set(seeds)) < len(seeds) or min(seeds) < 0 or jobs < 1:
        raise UserError("--seeds takes different seeds from 0 up, in place of --seed, and --jobs at least 1.")
    from ood_nc.training.run_directory import check_same

    config = _group_config(path, overrides, resume=resume)
    check_evaluation(config)
    folder = config.run_directory
    with write_lock(folder):
        if (folder / GROUP).exists() != resume:
            raise UserError(
                f"There is no group {folder} to resume: leave --resume out to start it."
                if resume
                else f"{folder} already holds runs: go on with --resume, or choose another --experiment."
            )
        if resume:
            check_same(load(folder / GROUP), config, folder)
        write_text(folder / GROUP, config.to_yaml())
        pending = {f"seed {seed}": _command(folder, seed) for seed in seeds if not _is_finished(folder, seed)}
        work(pending, jobs, of=len(seeds), kept=f"What is finished is kept in {folder}: go on with --resume.")
    return folder


def members(path: Path) -> list[Path]:
    """The runs of a group, by seed; a run stands for itself.

    Raises:
        UserError: it holds none yet, or some that were prolonged and some that were not, whose mean is of nothing.
    """
    if not (path / GROUP).is_file():
        return [path]
    # A copy beside them, as g-seed0.old, is none of the group.
    runs = (run for run in path.glob("*-seed*") if (run / "config.yaml").exists())
    found = {int(seed): run for run in runs if (seed := run.name.rpartition("-seed")[2]).isdecimal()}
    if not found:
        raise UserError(f"{path} holds no runs yet: go on with ood-nc run --resume.")
    epochs = {seed: load(found[seed] / "config.yaml").train.epochs for seed in sorted(found)}
    if len(set(epochs.values())) > 1:
        listed = ", ".join(f"{number} of seed {seed}" for seed, number in epochs.items())
        raise UserError(f"{path} holds runs of different epochs ({listed}): make them one with ood-nc run --resume.")
    return [found[seed] for seed in sorted(found)]


def on_results(directories: Sequence[Path], work: Callable[[list[Results]], Path]) -> Path:
    """Do what reads the results and then the runs' directories; once more where a run was evaluated in between."""
    from ood_nc.evaluation import Results

    while True:
        results = [Results.load(directory) for directory in directories]
        path = work(results)
        if all(
            read_results(directory)["identity"] == one.identity
            for directory, one in zip(directories, results, strict=True)
        ):
            return path


def report_group(folder: Path) -> Path:
    """Write the report of a run; of a group with every number as a mean over seeds with its interval, and say it."""
    from ood_nc.evaluation import over_seeds, save_comparison
    from ood_nc.report import write_comparison, write_report

    runs = members(folder)
    if len(runs) == 1:
        return write_report(runs[0])

    def write(results: list[Results]) -> Path:
        summary = over_seeds(results)
        save_comparison(summary, folder / "seeds.json")
        for sentence in summary["verdicts"]:
            say(sentence)
        return write_comparison(runs, folder / "report.html", summary)

    return on_results(runs, write)


def _group_config(path: str | None, overrides: dict[str, Any], *, resume: bool) -> Config:
    file = None if path is None else find_config(path)
    where = Path(str(overrides.get("output", "runs"))) / str(overrides.get("experiment")) / GROUP
    if resume and file is None and where.is_file():
        file = where
    config = load(file, overrides)
    name = config.experiment or config.run_directory.name.rpartition("-seed")[0]
    changes = {"tracking.wandb_group": config.tracking.wandb_group or name}
    changes["tracking.wandb_job_type"] = config.tracking.wandb_job_type or "train"
    return load(file, {**overrides, "experiment": name, **changes})


def _member(folder: Path, seed: int) -> Path:
    """The run of a seed: of a group that was renamed, under the name that it has."""
    there = [run for run in folder.glob(f"*-seed{seed}") if (run / "config.yaml").exists()]
    return there[0] if len(there) == 1 else folder / f"{folder.name}-seed{seed}"


def _is_finished(folder: Path, seed: int) -> bool:
    """Whether a run is as long, and measured, as the group is to be."""
    member = _member(folder, seed)
    if not is_reported(member):
        return False
    group, own = (asked_of(load(path)) for path in (folder / GROUP, member / "config.yaml"))
    return group == own


def is_reported(directory: Path) -> bool:
    """Whether the report is of the run as it is configured: one that goes on rewrites its configuration first."""
    config, report = directory / "config.yaml", directory / "report.html"
    return config.is_file() and report.is_file() and report.stat().st_mtime_ns >= config.stat().st_mtime_ns


def asked_of(config: Config) -> tuple[Any, ...]:
    """What runs that are resumed may be asked for anew: how long they are, and what they are measured on and by."""
    data = config.data.model_dump(exclude={"root", "cache"})
    return config.train.epochs, config.train.patience, config.evaluation, data


def _command(folder: Path, seed: int) -> list[str]:
    member = _member(folder, seed)
    words = [sys.executable, "-m", "ood_nc", "run", "--config", str(folder / GROUP), "--output", str(folder)]
    words += ["--experiment", member.name, "--seed", str(seed)]
    return words + (["--resume"] if (member / "config.yaml").exists() else [])
