"""``ood-nc retrofit``: adapter, projector and head on a finished network, and what they change, measured."""

from __future__ import annotations

import argparse
import time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ood_nc.cli.command import Command, add_config_arguments, read_config
from ood_nc.cli.compare import compare_runs
from ood_nc.cli.evaluating import check_evaluation, evaluate_on
from ood_nc.cli.foreign import foreign_model
from ood_nc.cli.show import say, show_results, table
from ood_nc.config import Config, load
from ood_nc.errors import UserError
from ood_nc.files import write_lock, write_text

if TYPE_CHECKING:
    from ood_nc.data import Inputs
    from ood_nc.evaluation import Results
    from ood_nc.features import BankStore
    from ood_nc.models import ControlledModel

ACCURACY_POINTS = 0.5
"""How much ID accuracy may be lost before that is said."""

_SHOWN = 10
_TAPS = ("encoder", "adapter", "projector")
_SETTINGS = {
    "model.projector.kind": "plastic",
    "model.freeze": ["backbone.*"],
    "loss.entropy_weight": 0.0,
    "train.epochs": 50,
    "train.batch_size": 256,
}
"""What differs here from the defaults of a training."""
_HEEDED = ("epochs", "batch_size", "clip_grad", "seed", "workers", "device")
"""Of the section train."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", type=Path, help="a run directory; or a file of weights, with --model"
    )
    parser.add_argument("--train", metavar="SOURCE", help="ID images with labels; without --test a fifth is tested")
    parser.add_argument("--test", metavar="SOURCE", help="held-out ID images with labels")
    parser.add_argument("--detector", metavar="NAME", default="knn", help="at the projector [knn]")


def _execute(arguments: argparse.Namespace) -> int:
    model, config = _network(arguments)
    if arguments.print_config:
        print(config.to_yaml(), end="")
        return 0
    check_evaluation(config)
    from ood_nc.detection import detector_class
    from ood_nc.training import RunDirectory

    if detector_class(arguments.detector).kind != "feature":
        raise UserError(f"--detector {arguments.detector} reads the whole network, not the projector: name another.")
    if not any(fnmatchcase(arguments.detector, pattern) for pattern in config.evaluation.detectors):
        raise UserError(f"--detector {arguments.detector} is not measured: name it in --detectors too.")
    directory = config.run_directory
    if directory.resolve() == arguments.checkpoint.resolve():
        raise UserError(f"{directory} is the run that is retrofitted: choose another --experiment.")
    with write_lock(directory):
        _check_free(directory)
        original, retrofitted, seconds = _retrofit(model, config, directory, arguments.detector)
        show_results(retrofitted)
        lines = _verdicts(original, retrofitted, arguments.detector, config)
        page, _ = compare_runs([directory / "original", directory], directory / "report.html", first=lines)
        run = RunDirectory(directory)
        run.write_status("finished", "", {key: run.read_status()[key] for key in ("epoch", "step")})
    for line in lines:
        say(line)
    say(f"projector and head: {seconds:.0f} s on cached features")
    say(f"model: {directory} (for ood-nc evaluate, fit and report); detector: {_detector_file(directory)}")
    say(f"report: {page}")
    return 0


def _network(arguments: argparse.Namespace) -> tuple[ControlledModel, Config]:
    """The network as it is, and the configuration of what it becomes."""
    for key in arguments.overrides:
        own = key.startswith(("augment.", "train.")) and key.removeprefix("train.") not in _HEEDED
        if own or key == "data.outliers":
            raise UserError(f"{key} changes nothing where projector and head learn from kept features: leave it out.")
    overrides = {**_SETTINGS, "experiment": f"retrofit-{arguments.checkpoint.stem}", **_data(arguments)}
    overrides |= arguments.overrides
    if arguments.checkpoint.is_dir():
        if arguments.config is not None or "model.name" in overrides:
            raise UserError("A run directory brings its network with it: leave --config and --model out.")
        from ood_nc.training import load_run

        model, old = load_run(arguments.checkpoint)
        if old.multilabel is not None:
            raise UserError(
                f"{arguments.checkpoint} learnt images with several labels: a retrofit is for one class each."
            )
        own = old.model_dump(mode="json", include={"model", "data", "evaluation", "tracking"})
        if "encoder" not in model.tap_names:
            raise UserError(
                f"{arguments.checkpoint} has no tap encoder, behind which a projector would stand: give its file of "
                "weights, with --model."
            )
        own["model"] |= {"checkpoint": str(arguments.checkpoint / "checkpoints" / "best.safetensors")}
        own["model"] |= {"taps": [*dict.fromkeys([*old.model.taps, *_TAPS])], "pretrained": False}
        workers = {"train.seed": old.train.seed, "train.workers": old.train.workers, "train.device": old.train.device}
        return model, load(None, {**own, **workers, **overrides})
    if arguments.config is None and "model.name" not in overrides:
        raise UserError(f"{arguments.checkpoint} is no run directory: say whose weights it holds, --model NAME.")
    if arguments.config is None and "data.train" not in overrides:
        raise UserError("retrofit needs the ID images: --train FOLDER.")
    overrides = {"model.taps": [*_TAPS], **overrides, "model.checkpoint": str(arguments.checkpoint)}
    config = read_config(arguments.config, overrides)
    plain = config.model.projector.model_copy(update={"kind": "none", "adapter": 0})
    return foreign_model(
        config.model_copy(update={"model": config.model.model_copy(update={"projector": plain})})
    ), config


def _data(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.train is None:
        return {} if arguments.test is None else {"data.test": arguments.test}
    own: dict[str, Any] = {"data.val": None}  # of the images that these take the place of
    if arguments.test is None:
        return {**own, "data.train": f"{arguments.train}::@train", "data.test": f"{arguments.train}::@test"}
    return {**own, "data.train": arguments.train, "data.test": arguments.test}


def _check_free(directory: Path) -> None:
    """Refuse to write over another run, or over what is finished; what was begun is done anew, from its features."""
    from ood_nc.training import RunDirectory

    run = RunDirectory(directory)
    if run.holds_a_run and (run.read_status().get("state") == "finished" or not (directory / "original").is_dir()):
        raise UserError(f"{directory} already holds a run: choose another --experiment.")


def _retrofit(model: ControlledModel, config: Config, directory: Path, detector: str) -> tuple[Results, Results, float]:
    """Measure the network as it is, give it projector and head, and measure it again, all from one pass an image.

    Returns:
        Both results, and the seconds that projector and head took.
    """
    import torch

    from ood_nc.data import load_data
    from ood_nc.deployment import fit_detector
    from ood_nc.features import BankStore, DerivedStore
    from ood_nc.training import from_encoder, with_projector

    data = load_data(config.data, seed=config.train.seed, workers=config.train.workers, check_images=False)
    names = data.id_train.class_names or ()
    if model.class_names is not None and tuple(model.class_names) != tuple(names):
        model.class_names, model.head_is_fresh = None, True  # it was trained on others: its head is no use here
    result = with_projector(model, config.model.projector, names, seed=config.train.seed)
    source = BankStore(directory / "original" / "features", getattr(torch, config.evaluation.bank_dtype))
    original = evaluate_on(model, config, directory / "original", store=source)
    start = time.perf_counter()
    _train(result, model, data, config, directory, source)
    seconds = time.perf_counter() - start
    store = DerivedStore(directory / "features", result, source=source, original=model, derive=from_encoder(result))
    retrofitted = evaluate_on(result, config, directory, [str(directory)], store=store)
    assert data.id_val is not None  # every run holds some out
    fitted = fit_detector(
        result, data.id_train, data.id_val,
        detectors=[detector], seed=config.train.seed, cache=directory / "features", **_loading(config),
    )  # fmt: skip
    fitted.save(_detector_file(directory))
    return original, retrofitted, seconds


def _train(
    result: ControlledModel, model: ControlledModel, data: Inputs, config: Config, directory: Path, source: BankStore
) -> None:
    """Train projector and head, and write the run: configuration, log, weights."""
    from ood_nc.data import eval_transform
    from ood_nc.tracking import open_trackers, read_log
    from ood_nc.training import EncoderFeatures, RunDirectory, fit_behind_encoder, write_best

    run, transform = RunDirectory(directory), eval_transform(model.preprocessing)
    sets = [one.with_transform(transform) for one in (data.id_train, data.id_val) if one is not None]
    banks = [source.get(model, one, **_loading(config)) for one in sets]
    train, val = (EncoderFeatures(bank.taps["encoder"], bank.labels) for bank in banks)
    write_text(run.config, config.to_yaml())
    run.write_status("running", "", {"epoch": 0})
    trackers = open_trackers(["local", *config.tracking.names()], directory, config.model_dump(mode="json"))
    state = "failed"
    try:
        scores = fit_behind_encoder(result, train, val, config, trackers)
        state = "finished"
    finally:
        for tracker in trackers:
            tracker.finish({"state": state})
    write_best(run, result, {"epoch": config.train.epochs, "val_accuracy": scores["accuracy"]})
    run.write_status("running", "", {"epoch": config.train.epochs, "step": read_log(run.metrics)[-1]["step"]})


def _loading(config: Config) -> dict[str, Any]:
    from ood_nc.devices import choose_device

    own = {"batch_size": config.evaluation.batch_size, "workers": config.train.workers}
    return {**own, "device": choose_device(config.train.device)}


def _detector_file(directory: Path) -> Path:
    return directory / "detector.safetensors"


def _verdicts(original: Results, retrofitted: Results, detector: str, config: Config) -> list[str]:
    """What the retrofit changed, in plain sentences; the table behind them is printed."""
    from ood_nc.evaluation.against_all import METRICS, against_all, verdict

    lines = [accuracy_verdict(*(_accuracy(results) for results in (original, retrofitted)))]
    if not original.select(kind="detection"):
        return [*lines, "No OOD set is named, so detection is not compared: --ood NAME=SOURCE."]
    settings = {"replicates": config.evaluation.bootstrap, "seed": config.train.seed}
    taps = ("projector", "adapter") if config.model.projector.adapter else ("projector",)
    duels = {tap: against_all(original, retrofitted, detector, taps=("encoder", tap), **settings) for tap in taps}
    rows = [
        [one.metric, one.method, f"{one.reference:.3f}", f"{one.reference + one.difference:.3f}", str(one)]
        for metric in METRICS
        for one in [one for one in duels["projector"] if one.metric == metric][:_SHOWN]
    ]
    title = f"{detector} at the projector against the best at the untouched encoder, means over OOD sets"
    table(title, ["metric", "encoder's", "value", f"projector's {detector}", "difference [95 %]"], rows)
    told = [
        f"Detection, {detector} at the {tap}, {verdict(found, metric)}."
        for tap, found in duels.items()
        for metric in METRICS
    ]
    return [*lines, *told]


def accuracy_verdict(before: float | None, after: float | None) -> str:
    """Whether ID accuracy was kept, in one sentence."""
    if before is None or after is None:
        return "ID accuracy cannot be compared: one of the two is undefined."
    points = 100 * (after - before)
    kept = "kept" if points >= -ACCURACY_POINTS else f"NOT kept within {ACCURACY_POINTS} points"
    return f"ID accuracy {100 * before:.1f} % -> {100 * after:.1f} % ({points:+.1f} points: {kept})."


def _accuracy(results: Results) -> float | None:
    """Of the head; where it was made for other classes, of the linear probe that stands in for it."""
    rows = results.select(kind="accuracy", dataset="id_test", metric="accuracy", tap=results.identity["head_tap"])
    found = {row["method"]: row["value"] for row in rows}
    return found.get("head") if found.get("head") is not None else found.get("linear")


COMMAND = Command(
    name="retrofit",
    summary="Put a projector and a head on a finished network, in minutes, and measure what that changes.",
    examples="""  ood-nc retrofit runs/baseline --experiment retrofitted
  ood-nc retrofit resnet50.pth --model resnet50 --train /data/flowers --ood textures=/data/dtd
  ood-nc retrofit w.th --model cifar_resnet20 --train cifar.tar.xz::train --test cifar.tar.xz::test --ood svhn=svhn""",
    add_arguments=_add_arguments,
    execute=_execute,
    takes_config=True,
)
