"""``ood-nc evaluate``: a finished run, or any timm model with ID and OOD folders."""

from __future__ import annotations

import argparse
import logging
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ood_nc.cli.command import Command, add_config_arguments, load_settled, read_config
from ood_nc.cli.multilabel import evaluate_multilabel
from ood_nc.cli.show import say, show_results
from ood_nc.config import Config, load
from ood_nc.errors import UserError
from ood_nc.files import write_lock, write_text
from ood_nc.processes import is_main_process

if TYPE_CHECKING:
    from ood_nc.evaluation import Results
    from ood_nc.features import BankStore
    from ood_nc.models import ControlledModel

logger = logging.getLogger(__name__)

_UNTESTED = "data.test is not given: evaluation needs held-out ID images, e.g. --data.test SOURCE."


def evaluate_run(directory: str | Path, overrides: dict[str, Any] | None = None, *, which: str = "best") -> Results:
    """Evaluate a finished run on the data of its configuration, and keep the results in its directory.

    Args:
        directory: the run directory.
        overrides: dotted keys that differ from the run's configuration.
        which: its checkpoint, ``best`` or ``last``.
    """
    from ood_nc.training import load_run

    directory = Path(directory)
    model, _ = load_run(directory, which=which)
    with write_lock(directory / "results.json") if is_main_process() else nullcontext():
        config = load_settled(directory, overrides or {})
        # `fit` reads the best checkpoint alone.
        source = [str(directory), *_data_flags(overrides or {})] if which == "best" else None
        return evaluate_on(model, config, directory, source)


def evaluate_model(config: Config) -> tuple[Results, Path]:
    """Evaluate a model that this project did not train, into a run directory of its own."""
    model = foreign_model(config)
    with _own_directory(config) as directory:
        return evaluate_on(model, config, directory, ["--config", str(directory / "config.yaml")]), directory


def evaluate_features(source: Path, config: Config) -> tuple[Results, Path]:
    """Evaluate features that were extracted elsewhere, into a run directory of its own."""
    from ood_nc.evaluation import evaluate

    with _own_directory(config) as directory:
        results = evaluate(features=source, **_settings(config, directory))
        results.save(directory)
    return results, directory


@contextmanager
def _own_directory(config: Config) -> Iterator[Path]:
    """The directory of a model that was not trained in it: nobody else trains or evaluates there, or has trained."""
    from ood_nc.training import RunDirectory

    directory = RunDirectory(config.run_directory)
    if not is_main_process():
        yield directory.path
        return
    with write_lock(directory.path), write_lock(directory.path / "results.json"):
        if directory.was_trained_in:
            raise UserError(
                f"{directory.path} already holds a run that was trained: evaluate that with ood-nc evaluate "
                f"{directory.path}, or choose another --experiment."
            )
        yield directory.path
        write_text(directory.config, config.to_yaml())


def check_evaluation(config: Config, *, later: bool = False) -> None:
    """Refuse what no evaluation could measure, before hours go into a training.

    Args:
        config: of the run.
        later: another command evaluates it, which may bring the test set.

    Raises:
        UserError: a detector, probe, ensemble, protocol or suite that there is not, a choice on no OOD set, a protocol
            without the sets that it needs, or no test set.
    """
    if not later and config.graphs is None and config.data.test is None:
        raise UserError(_UNTESTED)
    from ood_nc.data.run_data import with_suite
    from ood_nc.evaluation.full_spectrum import check_shifted
    from ood_nc.evaluation.names import check_names

    wanted = config.evaluation
    check_names(wanted.detectors, wanted.probes, wanted.ensembles, wanted.protocols, wanted.feature_map)
    ood, _ = with_suite(config.data)
    if not later and config.graphs is None:
        check_shifted(wanted.protocols, [one.group for name, one in ood.items() if name != wanted.choose])
    if config.data.suite is not None:
        choices = ["none", "synthetic", *ood]
        if wanted.choose not in choices:
            known = f"it can be {', '.join(choices)}"
            raise UserError(f"evaluation.choose is {wanted.choose!r}, which is no OOD set of the suite: {known}.")


def foreign_model(config: Config) -> ControlledModel:
    """A model that this project did not train, with its weights."""
    from ood_nc.models import load_foreign

    model, notes = load_foreign(config.model)
    model.preprocessing["pixels"] = config.data.pixels.model_dump(mode="json")
    for note in notes:
        logger.warning("%s", note)
    return model


def evaluate_on(
    model: ControlledModel,
    config: Config,
    directory: Path,
    source: Sequence[str] | None = None,
    *,
    store: BankStore | None = None,
) -> Results:
    """Evaluate a model on the data of a configuration, and keep the results in ``directory``.

    Args:
        model: the network.
        config: data and evaluation.
        directory: of the results, and of the feature banks where there is no ``store``.
        source: the words that name network and data to `ood-nc fit`, where there are any.
        store: of the feature banks.
    """
    from ood_nc.data import eval_transform, load_data
    from ood_nc.evaluation import add_layer_inputs, evaluate

    data = load_data(config.data, seed=config.train.seed, workers=config.train.workers, check_images=False)
    for note in data.notes:
        logger.info("%s", note)
    if data.id_test is None:
        raise UserError(_UNTESTED)
    chosen_on_test = config.data.val == config.data.test
    results = evaluate(
        model,
        id=data.id_test,
        id_train=data.id_train,
        id_val=None if chosen_on_test else data.id_val,
        ood=data.ood,
        transfer=data.transfer,
        groups=data.groups,
        workers=config.train.workers,
        cache=store or directory / "features",
        **_settings(config, directory),
    )
    if not is_main_process():
        return results
    if source is not None:
        results.identity["fit"] = fit_command(results, config, directory, source)
    if config.intermediate is not None:
        plain = eval_transform(model.preprocessing)
        add_layer_inputs(
            results,
            model,
            data.id_train.with_transform(plain),
            data.id_test.with_transform(plain),
            config.intermediate,
            batch_size=config.evaluation.batch_size,
            device=config.train.device,
        )
    if chosen_on_test:  # as the authors do, which is no strict evaluation of a network that was trained so
        note = f"data.val is data.test ({config.data.test}): it chose the epoch that it tests"
        results.identity["notes"].append(note)
    results.save(directory)
    _track(results, config, directory)
    return results


def fit_command(results: Results, config: Config, directory: Path, source: Sequence[str]) -> str | None:
    """The command that fits the recommended tap and detector; None where there is none.

    Args:
        results: with the choices.
        config: of the evaluation.
        directory: of the results; the file goes there.
        source: the words that name the network and its data.
    """
    for choice in results.choices:
        if choice["task"] == "detection" and choice["recommended"]:
            tap, detector, chosen_on = choice["chosen_tap"], choice["method"], config.evaluation.choose
            tuned = {"none": [], "synthetic": ["--choose"]}.get(chosen_on)
            if tuned is None and chosen_on not in config.data.ood:
                return None  # of a suite, which `fit` does not open
            tuned = tuned if tuned is not None else ["--validation-ood", str(config.data.ood[chosen_on].source)]
            file = directory / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', f'{detector}-{tap}')}.safetensors"
            words = ["--detector", detector, "--tap", tap, *tuned, "-o", str(file)]
            return shlex.join(["ood-nc", "fit", *source, *words])
    return None


def _data_flags(overrides: dict[str, Any]) -> list[str]:
    """The flags of an evaluation that say where the ID data are, for the command that fits on them."""
    where = ("root", "train", "val", "val_fraction", "limit")
    given = {key: overrides[f"data.{key}"] for key in where if f"data.{key}" in overrides}
    return [word for key, value in given.items() for word in (f"--data.{key}", str(value))]


def _settings(config: Config, directory: Path) -> dict[str, Any]:
    """What an evaluation takes from the configuration, whatever it reads."""
    from ood_nc.training import own_device

    own = {"seed": config.train.seed, "device": own_device(config.train.device), "run": directory.name}
    return {**config.evaluation.model_dump(), "finetune": config.evaluation.finetune, **own}


def _track(results: Results, config: Config, directory: Path) -> None:
    """Put every value of the long table into the tracked run's summary, under its full name."""
    from ood_nc.tracking import open_trackers
    from ood_nc.training import RunDirectory

    named = ("kind", "tap", "dataset", "group", "method", "metric")
    summary = {
        "/".join(str(row[part]) for part in named if row[part]): row["value"]
        for row in results.rows
        if row["value"] is not None
    }
    last_step = RunDirectory(directory).read_status().get("step", 0)
    for tracker in open_trackers(config.tracking.names(), directory, config.model_dump(mode="json"), last_step):
        tracker.finish(summary)


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


def foreign_config(arguments: argparse.Namespace, overrides: dict[str, Any], *, split_id: bool = True) -> Config:
    """The configuration of a command on a model that this project did not train.

    Args:
        arguments: with ``config`` and ``id``.
        overrides: dotted keys.
        split_id: keep a fifth of the ID images for the test.
    """
    command = "evaluate" if split_id else "fit"
    if arguments.config is None and "model.name" not in overrides:
        raise UserError(f"{command} needs a run directory, or --model NAME --id FOLDER: see ood-nc {command} --help.")
    overrides = {"model.projector.kind": "none", "loss.entropy_weight": 0.0, **overrides}
    if arguments.id is not None and split_id:
        overrides = {"data.train": f"{arguments.id}::@train", "data.test": f"{arguments.id}::@test", **overrides}
    elif arguments.id is not None:
        overrides = {"data.train": arguments.id, "data.test": None, "data.val_fraction": 0.2, **overrides}
    elif arguments.config is None and "data.train" not in overrides:
        raise UserError(f"{command} --model needs the ID images: --id FOLDER.")
    if "experiment" not in overrides:
        overrides["experiment"] = f"{command}-{Path(str(overrides.get('model.name', arguments.config))).stem}"
    return read_config(arguments.config, overrides)


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
