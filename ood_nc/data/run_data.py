"""All the data of a run, opened, checked and numbered as the configuration says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ood_nc.config import DataConfig, OodSet, TransferSet
from ood_nc.data.dataset import ImageDataset, align_classes, aligned_pair
from ood_nc.data.layout import EXPECTED, NoImagesError
from ood_nc.data.overlap import Role, find_overlaps
from ood_nc.data.scan import scan, shared_class_names
from ood_nc.data.sources import open_dataset
from ood_nc.data.splits import limit_total, stratified_split
from ood_nc.data.stores import ArrayStore
from ood_nc.data.suites import load_suite
from ood_nc.errors import UserError


@dataclass(frozen=True)
class RunData:
    """The data sets of a run. Labels of train, val and test follow ``class_names``; no transform is set.

    Attributes:
        train: ID images that are trained on.
        val: ID images that choose the epoch, never trained on.
        test: held-out ID images, or None.
        ood: OOD sets by name.
        transfer: (train, test) of each transfer task by name.
        groups: near, far or covariate of each OOD set.
        class_names: the ID classes in order; their indices as text where the source has no names.
        notes: findings for the user, a line each.
    """

    train: ImageDataset
    val: ImageDataset
    test: ImageDataset | None
    ood: dict[str, ImageDataset]
    transfer: dict[str, tuple[ImageDataset, ImageDataset]]
    groups: dict[str, str]
    class_names: tuple[str, ...]
    notes: list[str] = field(default_factory=list)


def load_data(config: DataConfig, *, seed: int = 0, workers: int = 0, check_images: bool = True) -> RunData:
    """Open every data set of a run and look through them.

    Limits choose the same images whatever the seed, so that runs with other seeds stay comparable image by image; the
    seed chooses the validation split.

    Args:
        config: the data section of the configuration; the sets of its suite are added.
        seed: of the validation split.
        workers: threads that check the training images.
        check_images: decode all training images first (the others are checked as they are read), and note what the
            sets share; an evaluation looks for that itself.

    Raises:
        UserError: a source cannot be opened, ID data has no labels, a class is unknown, or a training image is broken.
    """
    notes: list[str] = []

    def opened(source: str, limit: int | None = None) -> ImageDataset:
        dataset = open_dataset(source, root=config.root, limit=limit, max_inflated=config.max_inflated)
        return dataset.with_pixels(config.pixels)

    train = opened(config.train, config.limit)
    _require_labels(train, config.train, "data.train")
    names = train.class_names or tuple(str(index) for index in range(train.num_classes))
    train = align_classes(train, names)
    train = _checked(train, workers, check_images, config.skip_broken, notes)

    def evaluated(source: str) -> ImageDataset:
        dataset = opened(source)
        return dataset if config.eval_limit is None else limit_total(dataset, config.eval_limit)

    def evaluated_id(source: str, key: str) -> ImageDataset:
        dataset = evaluated(source)
        _require_labels(dataset, source, key)
        return align_classes(dataset, names)

    if config.val is None:
        kept, held_out = stratified_split(train.targets, config.val_fraction, seed)
        train, val = train.subset(kept), train.subset(held_out, name=f"{train.name} (held out)")
        if config.eval_limit is not None:
            val = limit_total(val, config.eval_limit)
    else:
        val = evaluated_id(config.val, "data.val")
        notes += _remarks([val])
    test = None if config.test is None else evaluated_id(config.test, "data.test")
    ood_sets, transfer_sets = _with_suite(config)
    ood = {name: _ood(name, entry.source, evaluated) for name, entry in ood_sets.items()}
    transfer = {name: _transfer(entry.train, entry.test, evaluated) for name, entry in transfer_sets.items()}
    notes += _remarks([test, *ood.values(), *(part for pair in transfer.values() for part in pair)])
    groups: dict[str, str] = {name: entry.group for name, entry in ood_sets.items()}
    data = RunData(train, val, test, ood, transfer, groups, names, notes)
    if check_images:
        _compare(data)
    return data


def _with_suite(config: DataConfig) -> tuple[dict[str, OodSet], dict[str, TransferSet]]:
    """The sets of the suite and those named one by one, which win where both have a name."""
    suite = {"ood": {}, "transfer": {}} if config.suite is None else load_suite(config.suite)
    ood = {name: OodSet(**entry) for name, entry in suite["ood"].items()}
    transfer = {name: TransferSet(**entry) for name, entry in suite["transfer"].items()}
    return {**ood, **config.ood}, {**transfer, **config.transfer}


def _ood(name: str, source: str, evaluated: Callable[[str], ImageDataset]) -> ImageDataset:
    """The set; one without images is kept empty, so that the others are still measured and its rows are undefined."""
    try:
        return evaluated(source)
    except NoImagesError as error:
        empty = ArrayStore(np.zeros((0, 1, 1), dtype=np.uint8))
        return ImageDataset(empty, name=name, ids=(), targets=np.zeros(0, dtype=np.int64), notes=[str(error)])


def _transfer(
    train: str, test: str | None, evaluated: Callable[[str], ImageDataset]
) -> tuple[ImageDataset, ImageDataset]:
    if test is None:
        whole = train.removesuffix("::@train")
        train, test = f"{whole}::@train", f"{whole}::@test"
    pair = evaluated(train), evaluated(test)
    for dataset, source in zip(pair, (train, test), strict=True):
        _require_labels(dataset, source, "data.transfer")
    return aligned_pair(*pair)


def _require_labels(dataset: ImageDataset, source: str, key: str) -> None:
    without = int((dataset.targets < 0).sum())
    if len(dataset) == 0 or without == len(dataset):
        raise UserError(f"{key}: {source} has images without labels; expected {EXPECTED.split(',')[0]}.")
    if without:
        raise UserError(f"{key}: {without} of {len(dataset)} images of {source} have no label (-1): leave them out.")


def _checked(
    train: ImageDataset, workers: int, check_images: bool, skip_broken: bool, notes: list[str]
) -> ImageDataset:
    report = scan(train, workers=workers, decode=check_images)
    notes += report.lines()
    if not report.broken:
        return train
    if not skip_broken:
        first, why = report.broken[0]
        count = "1 image" if len(report.broken) == 1 else f"{len(report.broken)} images, the first"
        how = "replace or remove it, or leave such images out with --data.skip_broken"
        raise UserError(f"{train.name}: cannot read {count}: {first} ({why}): {how}.")
    broken = {name for name, _ in report.broken}
    return train.subset(np.array([index for index, name in enumerate(train.ids) if name not in broken]))


def _remarks(datasets: Sequence[ImageDataset | None]) -> list[str]:
    """What the readers noted, once for the two shares of one source."""
    lines = [
        f"{dataset.name.partition('::@')[0]}: {note}"
        for dataset in datasets
        if dataset is not None
        for note in dataset.notes
    ]
    return list(dict.fromkeys(lines))


def _compare(data: RunData) -> None:
    """Note the copies and class names that the sets share: they cap what any detector can reach."""
    sets = {"ID train": data.train, "ID val": data.val} | ({} if data.test is None else {"ID test": data.test})
    roles: dict[str, Role] = {"ID train": "fit", "ID val": "choose"}
    found = find_overlaps(sets | data.ood, {name: roles.get(name, "test") for name in sets | data.ood})
    data.notes.extend(str(overlap) for overlap in found if overlap.first in sets)
    for name, dataset in data.ood.items():
        shared = shared_class_names(data.train, dataset)
        if shared:
            listed = ", ".join(shared[:8]) + (", ..." if len(shared) > 8 else "")
            data.notes.append(f"{name}: {len(shared)} of its classes shared with ID by name ({listed})")
