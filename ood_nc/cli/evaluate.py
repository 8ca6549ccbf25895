"""``ood-nc evaluate``: a finished run, or any timm model with ID and OOD folders."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ood_nc.cli.command import Command, add_config_arguments, load_settled, read_config
from ood_nc.cli.evaluating import evaluate_features, evaluate_model, evaluate_run
from ood_nc.cli.foreign import foreign_config
from ood_nc.cli.multilabel import evaluate_multilabel
from ood_nc.cli.show import say, show_results
from ood_nc.config import load
from ood_nc.errors import UserError
from ood_nc.files import write_text
from ood_nc.processes import is_main_process

if TYPE_CHECKING:
    from ood_nc.evaluation import Results


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("run", metavar="RUN", nargs="?", type=Path, help="a finished run directory")
    parser.add_argument(
        "--id", metavar="SOURCE", help="ID images, when there is no RUN: four fifths are fitted on, a fifth is tested"
    )
    parser.add_argument(
        "--features",
        metavar="FILE|DIR",
        type=Path,
        help="features instead of a model and images: .npz, .safetensors or a folder of such and .npy, with arrays "
        "named id_train/TAP, id_test/TAP, ood/NAME/TAP, SET/labels, and if known SET/logits, head/weight, head/bias",
    )
    parser.add_argument(
        "--format", choices=("openood",), help="also write the results in this format: openood, its csv"
    )


def _execute(arguments: argparse.Namespace) -> int:
    from ood_nc.training import joined

    with joined():
        found = _results(arguments)
    if found is None or not is_main_process():
        return 0
    results, directory = found
    show_results(results)
    if arguments.format == "openood":
        from ood_nc.evaluation import to_openood_csv

        path = directory / "results-openood.csv"
        write_text(path, to_openood_csv(results))
        say(f"OpenOOD csv: {path}")
    say(f"results: {directory / 'results.parquet'}")
    say(f"for the report: ood-nc report {directory}")
    return 0


def _results(arguments: argparse.Namespace) -> tuple[Results, Path] | None:
    """Evaluate what is named; the results (in the main process) and their directory, None where there is no table."""
    overrides = arguments.overrides
    if arguments.run is not None:
        if arguments.config or arguments.id or arguments.features or "model.name" in overrides:
            raise UserError("evaluate takes either RUN, or --model with --id, or --features: give one of them.")
        if arguments.print_config:
            print(load_settled(arguments.run, overrides).to_yaml(), end="")
            return None
        own = arguments.run / "config.yaml"  # where there is none, `load_run` says so in its own words
        config = load(own) if own.exists() else None
        if config is not None and config.multilabel is not None:
            if overrides:
                raise UserError(f"{arguments.run} is a run on label sets: it is measured as it was configured.")
            place = {"output": str(arguments.run.parent), "experiment": arguments.run.name}  # where it is now
            if is_main_process():
                evaluate_multilabel(config.model_copy(update=place))
            return None
        return evaluate_run(arguments.run, overrides), arguments.run
    if arguments.features is not None:
        if arguments.id or "model.name" in overrides:
            raise UserError("--features brings its sets with it and needs no model: leave --model and --id out.")
        if (unread := next((key for key in overrides if key.startswith(("data.", "model."))), None)) is not None:
            raise UserError(f"--features brings its sets with it and needs no model: nothing would read {unread}.")
        overrides.setdefault("experiment", f"evaluate-{arguments.features.stem}")
        config = read_config(arguments.config, overrides)
        if arguments.print_config:
            print(config.to_yaml(), end="")
            return None
        return evaluate_features(arguments.features, config) if is_main_process() else None
    config = foreign_config(arguments, overrides)
    if arguments.print_config:
        print(config.to_yaml(), end="")
        return None
    return evaluate_model(config)


COMMAND = Command(
    name="evaluate",
    summary="Measure every layer of a finished run, or of any timm model, and keep the results.",
    examples="""  ood-nc evaluate runs/trial
  ood-nc evaluate runs/trial --suite openood-cifar10 --data-dir /data --format openood
  ood-nc evaluate --model resnet50 --pretrained --id /data/flowers --ood textures=/data/dtd
  ood-nc evaluate --model resnet18 --checkpoint w.pth --num-classes 10 --id cifar.tar.xz::test --ood svhn=/data/svhn
  ood-nc evaluate --features features.npz""",
    add_arguments=_add_arguments,
    execute=_execute,
    takes_config=True,
)
