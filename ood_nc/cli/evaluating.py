"""What evaluates into a run directory: a finished run, a model trained elsewhere, features."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ood_nc.cli.command import load_settled
from ood_nc.cli.foreign import foreign_model
from ood_nc.config import Config, unread_keys
from ood_nc.errors import UserError
from ood_nc.files import write_lock, write_text
from ood_nc.processes import is_main_process

if TYPE_CHECKING:
    from ood_nc.evaluation import Results
    from ood_nc.features import BankStore
    from ood_nc.models import ControlledModel

logger = logging.getLogger(__name__)

_UNTESTED = "data.test is not given: evaluation needs held-out ID images, e.g. --data.test SOURCE."


def check_evaluation(config: Config, *, later: bool = False) -> None:
    """Refuse what no evaluation could measure, before hours go into a training.

    Args:
        config: of the run.
        later: another command evaluates it, which may bring the test set.

    Raises:
        UserError: a detector, probe, ensemble, protocol or suite that there is not, a choice on no OOD set, a protocol
            without the sets that it needs, no test set, or what a run on graphs or label sets does not measure.
    """
    if not later and config.graphs is None and config.data.test is None:
        raise UserError(_UNTESTED)
    if config.multilabel is not None and (unread := unread_keys(config)):
        raise UserError(f"A run on label sets does not read {', '.join(unread)}: leave that out.")
    from ood_nc.data.run_data import with_suite
    from ood_nc.detection import list_detectors
    from ood_nc.evaluation.full_spectrum import check_shifted
    from ood_nc.evaluation.names import check_names

    wanted = config.evaluation
    names = check_names(wanted.detectors, wanted.probes, wanted.ensembles, wanted.protocols, wanted.feature_map)
    if config.graphs is not None or config.multilabel is not None:
        own = next((name for name in names if name not in list_detectors(kind="feature")), None)
        if own is not None:
            raise UserError(f"Detector {own!r} needs images of one class each: leave it out of evaluation.detectors.")
    ood, _ = with_suite(config.data)
    if not later and config.graphs is None:
        check_shifted(wanted.protocols, [one.group for name, one in ood.items() if name != wanted.choose])
    if config.data.suite is not None:
        choices = ["none", "synthetic", *ood]
        if wanted.choose not in choices:
            known = f"it can be {', '.join(choices)}"
            raise UserError(f"evaluation.choose is {wanted.choose!r}, which is no OOD set of the suite: {known}.")


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
    from ood_nc.data import check_outliers, eval_transform, load_data
    from ood_nc.data.scan import broken_images
    from ood_nc.evaluation import add_layer_inputs, evaluate

    data = load_data(config.data, seed=config.train.seed, workers=config.train.workers, check_images=False)
    check_outliers(config.data, data)
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
        sets = {"id_train": data.id_train, "id_test": data.id_test}
        for name, dataset in sets.items():
            if "broken" in results.identity["datasets"][name]:  # left out of all that was measured so far
                broken = {image for image, _ in broken_images(dataset, workers=config.train.workers)}
                sets[name] = dataset.subset([row for row, image in enumerate(dataset.ids) if image not in broken])
        add_layer_inputs(
            results,
            model,
            sets["id_train"].with_transform(plain),
            sets["id_test"].with_transform(plain),
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
