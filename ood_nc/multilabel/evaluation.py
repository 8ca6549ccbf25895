"""The results of a run on label sets: the long table of every other run."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ood_nc.collapse import Multiplicity, measure_multilabel
from ood_nc.config import Config, MultilabelConfig, unread_keys
from ood_nc.data import ImageDataset, LabelSetDataset, LabelSetInputs, eval_transform, find_overlaps
from ood_nc.data.overlap import Role
from ood_nc.data.run_data import with_suite
from ood_nc.detection import create_feature_detector, list_detectors
from ood_nc.errors import UserError
from ood_nc.evaluation.detection import null_rows, rows_of_sets
from ood_nc.evaluation.measurement_plan import Resamples
from ood_nc.evaluation.results import STRICT, MakeRow, Results, Row, make_row, reason_of
from ood_nc.evaluation.scores_table import Columns, correct_column, score_column, scores_table
from ood_nc.features import UnreadableError, extract
from ood_nc.models import ControlledModel
from ood_nc.multilabel.detection import joint_energy, max_logit, nearest_by_label
from ood_nc.multilabel.metrics import exact_matches, score_label_sets
from ood_nc.multilabel.thresholds import label_thresholds
from ood_nc.training.run_directory import versions

_LISTED = 100
OWN = ("joint_energy", "max_logit", "nearest_by_label")


@dataclass
class _Bank:
    """What one pass gave of the images of a set that can be read: logits, features by tap, label sets where it has
    them, ids; and id and reason of the others."""

    logits: Tensor
    taps: dict[str, Tensor]
    sets: Tensor
    ids: tuple[str, ...]
    broken: list[tuple[str, str]]


def evaluate_label_sets(model: ControlledModel, data: LabelSetInputs, config: Config) -> Results:
    """Label-set accuracy, multi-label collapse at every tap, thresholds, and OOD detection at every tap.

    Feature detectors, which know classes, are fitted on the training images of one label; ``joint_energy``,
    ``max_logit`` and ``nearest_by_label`` are those of `ood_nc.multilabel`. In the scores by sample an image is right
    where its whole set is.

    Args:
        model: trained.
        data: with a test set.
        config: of the run.

    Raises:
        UserError: there is no test set.
    """
    assert config.multilabel is not None
    if data.id_test is None:
        raise UserError("data.test is not given: evaluation needs held-out ID images, e.g. --data.test SOURCE.")
    sets: dict[str, ImageDataset] = {"id_train": data.id_train, "id_val": data.id_val, "id_test": data.id_test}
    banks, notes = {name: _bank(model, dataset, config) for name, dataset in sets.items()}, list[str]()
    for name, dataset in data.ood.items():
        try:
            banks[name] = _bank(model, dataset, config)
        except UnreadableError as error:
            notes.append(f"{error} It is undefined and in no mean.")
    notes += [f"{name} holds no images: it is undefined and in no mean" for name in data.groups if name not in data.ood]
    run, seed = config.run_directory.name, config.train.seed
    make: MakeRow = partial(make_row, {"run": run, "seed": seed, "protocol": STRICT})
    limits = label_thresholds(banks["id_val"].logits, banks["id_val"].sets, config.multilabel.miss_rate)
    columns: dict[str, Columns] = {name: {} for name in banks if name in ("id_test", *data.ood)}
    right = exact_matches(banks["id_test"].logits, banks["id_test"].sets).numpy()
    columns["id_test"][correct_column(model.head_tap, "head")] = right
    where = {"kind": "accuracy", "dataset": "id_test", "group": "id", "method": "head", "tap": model.head_tap}
    of_sets = make(**where, metric="accuracy", value=float(right.mean()), n=len(right))
    rows = [of_sets, *_accuracy_rows(banks, limits, make), *_collapse_rows(model, banks, config, make)]
    if data.groups:
        rows += _detection_rows(model, banks, columns, limits, config, data.groups, make)
    kept = [(data.groups.get(name, "id"), name, banks[name].ids, found) for name, found in columns.items()]
    identity = _identity(model, sets, data, config)
    for name, bank in banks.items():
        if bank.broken:
            first, why = bank.broken[0]
            known = identity["datasets"][name]
            known["broken"] = {"count": len(bank.broken), "first": [list(pair) for pair in bank.broken[:_LISTED]]}
            left_out = f"{len(bank.broken)} of {known['n']} images cannot be read and are left out ({first}: {why})"
            notes.append(f"{name}: {left_out}")
    identity["notes"] += notes
    return Results(rows=rows, identity=identity, scores=scores_table(kept))


def _bank(model: ControlledModel, dataset: ImageDataset, config: Config) -> _Bank:
    plain, settings = dataset.with_transform(eval_transform(model.preprocessing)), config.evaluation
    found = extract(
        model, plain, batch_size=settings.batch_size, workers=config.train.workers, device=config.train.device
    )
    left_out = {name for name, _ in found.broken}
    rows = [row for row, name in enumerate(dataset.ids) if name not in left_out]
    sets = dataset.label_sets[rows] if isinstance(dataset, LabelSetDataset) else np.zeros((len(rows), 0))
    taps = {name: features.float() for name, features in found.taps.items()}
    return _Bank(found.logits, taps, torch.from_numpy(sets.astype(np.float32)), found.ids, found.broken)


def _accuracy_rows(banks: dict[str, _Bank], limits: Tensor, make: MakeRow) -> list[Row]:
    """How well sets are predicted, over all and by the number of labels; what the thresholds miss and let in."""
    rows = []
    for name in ("id_train", "id_test"):
        bank = banks[name]
        where = {"kind": "accuracy", "dataset": name, "group": "id"}
        sizes = bank.sets.sum(dim=1)
        parts = {"head": torch.ones_like(sizes, dtype=torch.bool)}
        parts |= {f"head, {int(m)} labels": sizes == m for m in sizes.unique()}
        for method, chosen in parts.items():
            found = score_label_sets(bank.logits[chosen], bank.sets[chosen]).to_dict()
            more = {"method": method, "reason": "every label is on all images or on none", "n": int(chosen.sum())}
            rows += [make(**where, **more, metric=metric, value=value) for metric, value in found.items()]
    test = banks["id_test"]
    told = test.logits >= limits
    there = test.sets == 1
    where = {"kind": "accuracy", "dataset": "id_test", "group": "id", "method": "thresholds", "reason": "no such label"}
    rows.append(make(**where, metric="missed_labels", value=float((~told)[there].double().mean()), n=int(there.sum())))
    rows.append(make(**where, metric="extra_labels", value=float(told[~there].double().mean()), n=int((~there).sum())))
    return rows


def _collapse_rows(model: ControlledModel, banks: dict[str, _Bank], config: Config, make: MakeRow) -> list[Row]:
    assert config.multilabel is not None
    composed = Path(config.data.train).suffix not in (".csv", ".parquet", ".mat")
    rows = []
    for name in ("id_train", "id_test"):
        for depth, tap in enumerate(model.tap_names):
            bank = banks[name]
            where = {"kind": "collapse", "dataset": name, "group": "id", "tap": tap, "depth": depth}
            weight, bias = _head_at(model, tap)
            try:
                report = measure_multilabel(bank.taps[tap], bank.sets, weight=weight, bias=bias)
            except UserError as error:  # no image of one label, say: the other measurements do without
                rows.append(make(**where, metric="nc1_pinv", value=None, reason=reason_of(error), n=len(bank.sets)))
                continue
            for metric, value in report.to_dict().items():
                reason = report.single.reasons.get(metric, "too few label sets")
                rows.append(make(**where, metric=metric, value=value, reason=reason, n=len(bank.sets)))
            if composed:
                for part in report.by_multiplicity:
                    rows += _by_frequency(part, config.multilabel, model.num_classes, partial(make, **where))
    return rows


def _by_frequency(part: Multiplicity, settings: MultilabelConfig, classes: int, make: MakeRow) -> list[Row]:
    """The angle of the composed sets that were given equally many images, where those numbers differ (imbalance)."""
    numbers = settings.counts.get(part.labels, [])
    if len(set(numbers)) < 2:
        return []
    given = {
        chosen: numbers[place % len(numbers)]
        for place, chosen in enumerate(itertools.combinations(range(classes), part.labels))
    }
    rows = []
    for number in dict.fromkeys(numbers):
        angles = [angle for angle, one in zip(part.set_angles, part.set_labels, strict=True) if given[one] == number]
        if angles:
            metric = f"mlab_angle_m{part.labels}_of_{number}"
            rows.append(make(metric=metric, value=float(np.mean(angles)), n=len(angles)))
    return rows


def _detection_rows(
    model: ControlledModel,
    banks: dict[str, _Bank],
    columns: dict[str, Columns],
    limits: Tensor,
    config: Config,
    groups: dict[str, str],
    make: MakeRow,
) -> list[Row]:
    """The metrics of every detector on the sets of ``columns``, which take its scores."""
    resamples = Resamples(config.evaluation.bootstrap, config.train.seed)
    depth = {tap: number for number, tap in enumerate(model.tap_names)}
    rows: list[Row] = []
    for method, tap, found in _scores(model, banks, list(columns), limits, config):
        at = partial(make, kind="detection", tap=tap, depth=depth.get(tap, len(depth)), method=method)
        if isinstance(found, Exception):
            rows += null_rows(groups, reason_of(found), at)
            continue
        rows += rows_of_sets(found, groups, resamples, at)
        for name, values in found.items():
            columns[name][score_column(tap, method)] = values
    return rows


def _scores(
    model: ControlledModel, banks: dict[str, _Bank], names: list[str], limits: Tensor, config: Config
) -> Iterator[tuple[str, str, dict[str, np.ndarray] | Exception]]:
    """Every detector and tap with its scores by set, or why it gives none."""
    centered = any(term.name == "pick_all_label" for term in config.loss.terms)
    for method, score in {"joint_energy": joint_energy, "max_logit": max_logit}.items():
        yield method, model.head_tap, {key: score(banks[key].logits, centered=centered).numpy() for key in names}
    train, alone = banks["id_train"], banks["id_train"].sets.sum(dim=1) == 1
    labels = train.sets.argmax(dim=1)
    for tap in model.tap_names:
        known, told = (train.taps[tap], train.sets), {key: banks[key].logits >= limits for key in names}
        near = {key: nearest_by_label(*known, banks[key].taps[tap], told[key]).numpy() for key in names}
        yield "nearest_by_label", tap, near
        weight, bias = _head_at(model, tap)
        head = None if weight is None else (weight, bias)
        for method in _detectors(config):
            found: dict[str, np.ndarray] | Exception
            try:
                detector = create_feature_detector(method).fit(train.taps[tap][alone], labels[alone], head=head)
                found = {key: detector.score(banks[key].taps[tap]).numpy() for key in names}
            except Exception as error:  # one detector must not cost the others
                found = error
            yield method, tap, found


def _head_at(model: ControlledModel, tap: str) -> tuple[Tensor | None, Tensor | None]:
    """Weight and bias of the head at the tap that it reads; None elsewhere, and for a bias that there is not."""
    if tap != model.head_tap:
        return None, None
    bias = model.head_bias
    return model.head_weight.detach().float().cpu(), None if bias is None else bias.detach().float().cpu()


def _detectors(config: Config) -> list[str]:
    patterns: Iterable[str] = config.evaluation.detectors
    names = dict.fromkeys(name for pattern in patterns for name in list_detectors(pattern, kind="feature"))
    return [name for name in names if name not in OWN]


def _head_parameters(model: ControlledModel) -> int:
    """How many numbers are learnt behind the encoder: what a fixed head or one of fewer dimensions saves."""
    parts = [part for part in (model.adapter, model.projector, model.head) if part is not None]
    return sum(parameter.numel() for part in parts for parameter in part.parameters() if parameter.requires_grad)


def _identity(
    model: ControlledModel, sets: dict[str, ImageDataset], data: LabelSetInputs, config: Config
) -> dict[str, Any]:
    groups = {**dict.fromkeys(sets, "id"), **data.groups}
    return {
        "run": config.run_directory.name,
        "seed": config.train.seed,
        "protocol": STRICT,
        "model": model.backbone_name,
        "taps": [
            {"name": info.name, "depth": info.depth, "pooling": info.pooling, "dim": info.dim}
            for info in model.tap_info.values()
        ],
        "head_tap": model.head_tap,
        "head_used": True,
        "classes": model.num_classes,
        "class_names": list(model.class_names or ()),
        "detectors": [*OWN, *_detectors(config)],
        "probes": [],
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "datasets": {
            name: {"n": len(dataset), "group": groups[name], "fingerprint": dataset.fingerprint()}
            for name, dataset in {**sets, **data.ood}.items()
        }
        | {name: {"n": 0, "group": group} for name, group in data.groups.items() if name not in data.ood},
        "notes": [
            f"trained parameters of projector and head: {_head_parameters(model)}",
            *_passed_over(config),
            *_shared(data),
        ],
    }


def _passed_over(config: Config) -> list[str]:
    """What the configuration asks for that is not measured on label sets, in one line."""
    asked = unread_keys(config)
    if with_suite(config.data)[1].keys() - config.data.transfer:
        asked.append(f"the transfer tasks of {config.data.suite}")
    return [f"not read in a run on label sets: {', '.join(asked)}"] if asked else []


def _shared(data: LabelSetInputs) -> list[str]:
    """The images of each set that are also in an ID set that comes before it, a line for each two sets."""
    own = {"ID train": data.id_train, "ID val": data.id_val, "ID test": data.id_test}
    sets = {name: dataset for name, dataset in {**own, **data.ood}.items() if dataset is not None}
    roles: dict[str, Role] = {"ID train": "fit", "ID val": "choose"}
    found = find_overlaps(sets, {name: roles.get(name, "test") for name in sets})
    return [str(overlap) for overlap in found if overlap.first not in data.ood]
