"""``ood-nc train`` and ``ood-nc run``."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from ood_nc.cli.command import Command, add_config_arguments, read_run_config
from ood_nc.cli.evaluating import check_evaluation, evaluate_run
from ood_nc.cli.graphs import run_graphs
from ood_nc.cli.multilabel import evaluate_multilabel
from ood_nc.cli.seeds import report_group, run_seeds
from ood_nc.cli.show import say, show_results
from ood_nc.errors import UserError
from ood_nc.processes import is_main_process


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on exactly where the run stopped; --experiment alone is enough, the rest is the run's own",
    )


def _train(arguments: argparse.Namespace) -> int:
    config = read_run_config(arguments.config, arguments.overrides, resume=arguments.resume)
    if arguments.print_config:
        print(config.to_yaml(), end="")
        return 0
    if config.graphs is not None:
        raise UserError("A run on graphs is trained and measured in one: use ood-nc run.")
    check_evaluation(config, later=True)
    from ood_nc.training import train

    directory = train(config, resume=arguments.resume)
    if is_main_process():
        _show_end(directory)
        say(f"next: ood-nc evaluate {shlex.quote(str(directory))}")
    return 0


def _show_end(directory: Path) -> None:
    """How good the run became, where it is, and how its tracked parts become one."""
    from ood_nc.tracking import sync_command
    from ood_nc.training import RunDirectory

    status = RunDirectory(directory).read_status()
    if status.get("best_epoch"):
        accuracy = f"{status['best_accuracy']:.1%}"
        say(f"validation accuracy: {accuracy}, best in epoch {status['best_epoch']} of {status['epoch']}")
    say(f"run directory: {directory}")
    command = sync_command(directory)
    if command is not None:
        say(f"to upload to Weights & Biases, all parts as one run: {command}")


def _add_seeds(parser: argparse.ArgumentParser) -> None:
    _add_arguments(parser)
    parser.add_argument("--seeds", metavar="N", type=int, nargs="+", help="one run a seed, in a folder of their own")
    parser.add_argument("--jobs", metavar="N", type=int, default=1, help="of --seeds, so many at a time [1]")


def _run(arguments: argparse.Namespace) -> int:
    if arguments.seeds and not arguments.print_config:
        folder = run_seeds(
            arguments.config, arguments.overrides, arguments.seeds, jobs=arguments.jobs, resume=arguments.resume
        )
        say(f"report: {report_group(folder)}")
        return 0
    config = read_run_config(arguments.config, arguments.overrides, resume=arguments.resume)
    if arguments.print_config:
        print(config.to_yaml(), end="")
        return 0
    check_evaluation(config)
    from ood_nc.report import write_report
    from ood_nc.training import train

    if config.graphs is not None:
        say(f"report: {write_report(run_graphs(config, resume=arguments.resume))}")
        return 0
    directory = train(config, resume=arguments.resume)
    if not is_main_process():
        return 0
    if config.multilabel is not None:
        evaluate_multilabel(config)
        say(f"report: {write_report(directory)}")
        return 0
    # How collapsed layers are at the end is not asked of the epoch that happened to validate best.
    show_results(evaluate_run(directory, which="best" if config.intermediate is None else "last"))
    _show_end(directory)
    say(f"report: {write_report(directory)}")
    return 0


TRAIN = Command(
    name="train",
    summary="Train a model into a run directory.",
    examples="""  ood-nc train --config cifar10-cpu
  ood-nc train --config my.yaml --lr 0.01 --epochs 50 --experiment trial
  ood-nc train --experiment trial --resume
  ood-nc train --experiment trial --resume --epochs 100
  torchrun --nproc-per-node 4 -m ood_nc train --config imagenet100-resnet18 --data-dir /data
    (four processes share the 512 images of the recipe's batch, so its learning rate holds)""",
    add_arguments=_add_arguments,
    execute=_train,
    takes_config=True,
)

RUN = Command(
    name="run",
    summary="Train, evaluate, and write the report.",
    examples="""  ood-nc run --config quickstart --experiment trial
  ood-nc run --config cifar10-cpu --data-dir /data --epochs 5
  ood-nc run --config quickstart --experiment trial --seeds 0 1 2 --jobs 2
  ood-nc run --experiment trial --seeds 0 1 2 --resume
  ood-nc run --config configs/graphs/cpu-32-layers.yaml --seeds 0 1 2
  ood-nc run --data.train photos::train --data.test photos::val --ood other=/data/other --epochs 20""",
    add_arguments=_add_seeds,
    execute=_run,
    takes_config=True,
)
