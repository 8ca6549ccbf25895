"""``ood-nc fit``: a detector for production, as one file."""

from __future__ import annotations

import argparse
import json
import logging
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ood_nc.cli.command import Command, add_config_arguments, load_settled
from ood_nc.cli.foreign import foreign_config, foreign_model
from ood_nc.cli.places import check_place
from ood_nc.cli.show import say
from ood_nc.config import Config
from ood_nc.errors import UserError
from ood_nc.files import write_lock
from ood_nc.processes import is_main_process

if TYPE_CHECKING:
    from ood_nc.deployment import Detector
    from ood_nc.models import ControlledModel

logger = logging.getLogger(__name__)
_SHOWN = 10


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("run", metavar="RUN", nargs="?", type=Path, help="a finished run directory")
    parser.add_argument("--id", metavar="SOURCE", help="ID images with labels, when there is no RUN")
    parser.add_argument(
        "--detector", metavar="NAME", action="append", help="what scores [knn]; several times for an ensemble"
    )
    parser.add_argument(
        "--tap", metavar="NAME", action="append", help="where [what the head reads]; several times for an ensemble"
    )
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="a detector's hyper-parameter")
    parser.add_argument(
        "--combine",
        choices=("fisher", "rank", "zscore"),
        default="fisher",
        help="how the members of an ensemble become one score [fisher]",
    )
    parser.add_argument("--tpr", type=float, default=0.95, help="share of fresh ID images accepted at least [0.95]")
    parser.add_argument("--per-class", action="store_true", help="hold that within each predicted class")
    parser.add_argument(
        "--choose", action="store_true", help="search the hyper-parameters, on held-out ID and synthetic outliers"
    )
    parser.add_argument(
        "--validation-ood", metavar="SOURCE", help="search them against these OOD images instead; report none on them"
    )
    parser.add_argument("--no-backbone", action="store_true", help="leave the network's weights out of the file")
    parser.add_argument("-o", "--file", metavar="FILE", type=Path, required=True, help="the detector's file")


def _execute(arguments: argparse.Namespace) -> int:
    model, config, cache = _model(arguments)
    if arguments.print_config:
        print(config.to_yaml(), end="")
        return 0
    from ood_nc.training import joined

    check_place(arguments.file, "detector", lambda header: "members" in header)  # of whatever format
    with joined(), write_lock(arguments.file) if is_main_process() else nullcontext():
        try:
            detector = _fit(arguments, model, config, cache)
            if detector is None:
                return 0
            detector.save(arguments.file, backbone=not arguments.no_backbone)
        except KeyboardInterrupt:
            kept = "no file was written" if cache is None else "the features that are finished are kept"
            raise KeyboardInterrupt(f"{kept}: the same command fits again.") from None
    _show(detector, arguments.file)
    return 0


def _fit(arguments: argparse.Namespace, model: ControlledModel, config: Config, cache: Path | None) -> Detector | None:
    """The detector; None in a process that only shares the forward passes with the main one."""
    from ood_nc.data import eval_transform, load_data, open_dataset
    from ood_nc.deployment import fit_detector, share_passes
    from ood_nc.sealed import read_sealed
    from ood_nc.training import own_device

    data = load_data(config.data, seed=config.train.seed, workers=config.train.workers, check_images=False)
    assert data.id_val is not None  # every run holds some out
    for note in data.notes:
        logger.info("%s", note)
    if arguments.run is not None and config.data.val is None:
        header, _ = read_sealed(arguments.run / "checkpoints" / "best.safetensors", with_tensors=False)
        learnt, now = header.get("facts", {}).get("data"), data.id_train.fingerprint()
        if learnt not in (None, now):
            logger.warning(
                "the training images are not those that %s learnt from: held-out ones, drawn from them, may be among "
                "these, and the threshold would promise too much. Give others as --data.val.",
                arguments.run,
            )
    validation = None
    if arguments.validation_ood is not None:
        opened = open_dataset(arguments.validation_ood, root=config.data.root)
        validation = opened.with_transform(eval_transform(model.preprocessing))
    passes: dict[str, Any] = {
        "validation_ood": validation,
        "batch_size": config.evaluation.batch_size,
        "workers": config.train.workers,
        "device": own_device(config.train.device),
        "cache": cache,
    }
    if not is_main_process():
        share_passes(model, data.id_train, data.id_val, **passes)
        return None
    detector = fit_detector(
        model,
        data.id_train,
        data.id_val,
        **passes,
        detectors=arguments.detector or ["knn"],
        taps=arguments.tap,
        parameters=_parameters(arguments.set),
        combine=arguments.combine,
        tpr=arguments.tpr,
        per_class=arguments.per_class,
        choose=arguments.choose or validation is not None,
        seed=config.train.seed,
    )
    for note in detector.about["notes"]:
        logger.warning("%s", note)
    if model.class_names is None and detector.uses_head:
        model.class_names = data.id_train.class_names  # weights know no names: those of the folders, in their order
    return detector


def _model(arguments: argparse.Namespace) -> tuple[ControlledModel, Config, Path | None]:
    """The network, the configuration of its data, and the folder of its feature banks."""
    overrides = arguments.overrides
    if arguments.run is not None:
        if arguments.config or arguments.id or "model.name" in overrides:
            raise UserError("fit takes either RUN, or --model with --id: give one of the two.")
        from ood_nc.training import load_run

        model, config_of_run = load_run(arguments.run)
        if config_of_run.multilabel is not None:
            raise UserError(f"{arguments.run} learnt images with several labels: a detector file holds one class each.")
        return model, load_settled(arguments.run, overrides), arguments.run / "features"
    config = foreign_config(arguments, overrides, split_id=False)
    return foreign_model(config), config, None


def _parameters(pairs: list[str]) -> dict[str, Any]:
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals and value):
            raise UserError(f"--set takes KEY=VALUE, e.g. --set k=10, got {pair!r}.")
        try:
            found[name] = yaml.safe_load(value)
            json.dumps(found[name])  # neither dates nor anything that holds itself
        except (yaml.YAMLError, ValueError, TypeError, RecursionError):
            raise UserError(f"--set {name}: {value[:60]!r} is no value: give a number, a word or [a, list].") from None
    return found


def _show(detector: Detector, path: Path) -> None:
    threshold = detector.threshold
    say(f"detector: {path} ({', '.join(member.name for member in detector.members)})")
    for name, record in detector.about["chosen"].items():
        say(f"  {name}: {record['parameters']} chosen on {record['selected_on']} (AUROC {record['auroc']:.3f} there)")
    if detector.calibration.classes is None:
        say(
            f"accepts a fresh ID image with probability {threshold.tpr:.4g} or more: score >= {threshold.value:.6g}, "
            f"from {threshold.samples} held-out ID images; expected false alarms per 10,000 ID images: "
            f"{threshold.false_alarms_per_10000:.0f} [{threshold.low:.0f}, {threshold.high:.0f}]"
        )
        if threshold.value == float("-inf"):
            say("  too few held-out images for any rejection at this level: hold out more, or lower --tpr")
    else:
        _show_classes(detector)
    say(f"to use it: ood-nc score {path} IMAGES...")


def _show_classes(detector: Detector) -> None:
    limits = [detector.limit(index) for index in range(detector.model.num_classes)]
    finite = [limit for limit in limits if limit > float("-inf")]
    between = f"score >= {min(finite):.6g} to {max(finite):.6g}, by class, " if finite else ""
    say(
        f"accepts a fresh ID image of each predicted class with probability {detector.threshold.tpr:.4g} or more: "
        f"{between}from {detector.threshold.samples} held-out ID images"
    )
    names = detector.model.class_names or [str(index) for index in range(len(limits))]
    without = [name for name, limit in zip(names, limits, strict=True) if limit == float("-inf")]
    if without:
        more = ", ..." if len(without) > _SHOWN else ""
        say(
            f"  {len(without)} of {len(limits)} classes have too few held-out images for any rejection at this level: "
            f"every image predicted as one of them is accepted ({', '.join(without[:_SHOWN])}{more}). Hold out more, "
            "lower --tpr, or leave out --per-class"
        )


COMMAND = Command(
    name="fit",
    summary="Fit a detector on one layer and calibrate its threshold on held-out ID images: one file to deploy.",
    examples="""  ood-nc fit runs/trial --detector knn --tap encoder --tpr 0.95 -o knn.safetensors
  ood-nc fit runs/trial --detector knn --set k=10 -o knn.safetensors
  ood-nc fit runs/trial --detector energy --detector mahalanobis --tap encoder --tap projector -o ensemble.safetensors
  ood-nc fit runs/trial --detector vim --choose --validation-ood /data/textures -o vim.safetensors
  ood-nc fit --model resnet50 --pretrained --id /data/flowers --detector mahalanobis -o flowers.safetensors""",
    add_arguments=_add_arguments,
    execute=_execute,
    takes_config=True,
)
