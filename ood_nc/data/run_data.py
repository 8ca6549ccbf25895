"""All the data of a run, opened, checked and numbered as the configuration says."""

from __future__ import annotations

from collections.abc import Iterable

from ood_nc.config import DataConfig, OodSet, TransferSet
from ood_nc.data.cache import cached
from ood_nc.data.dataset import ImageDataset, align_classes
from ood_nc.data.inputs import Inputs, Source, prepare
from ood_nc.data.layout import EXPECTED, NoImagesError
from ood_nc.data.overlap import Role, find_overlaps
from ood_nc.data.scan import broken_images, scan, shared_class_names
from ood_nc.data.sources import open_dataset
from ood_nc.data.splits import limit_total
from ood_nc.data.suites import load_suite
from ood_nc.errors import UserError


def load_data(config: DataConfig, *, seed: int = 0, workers: int = 0, check_images: bool = True) -> Inputs:
    """Open every data set of a run and look through them. No transform is set; ID train always names its classes.

    Limits choose the same images whatever the seed, so that runs with other seeds stay comparable image by image; the
    seed chooses the validation split.

    Args:
        config: the data section of the configuration; the sets of its suite are added.
        seed: of the validation split.
        workers: threads that check and decode the training images.
        check_images: decode all images of ID train and validation first (the others are checked as they are read), note
            what the sets share, and keep those two where ``config.cache`` says. An evaluation, which reads each image
            once, does without.

    Raises:
        UserError: a source cannot be opened, ID data has no labels, a class is unknown, or an image that training reads
            is broken.

    Example:
        >>> from ood_nc.config import DataConfig
        >>> config = DataConfig(train="bundled/digits-id::train", test="bundled/digits-id::test", limit=10)
        >>> inputs = load_data(config, check_images=False)
        >>> len(inputs.id_train) + len(inputs.id_val), len(inputs.id_test)
        (50, 300)
    """
    notes: list[str] = []

    def evaluated(source: Source, name: str | None = None) -> ImageDataset:
        """A set that is only measured; one without images is noted under its name."""
        if isinstance(source, ImageDataset):
            return source
        try:
            return open_configured(config, source, most=config.eval_limit)
        except NoImagesError as error:
            notes.append(f"{name}: {error}")
            raise

    def evaluated_id(source: str | None, key: str) -> ImageDataset | None:
        return None if source is None else _labelled(evaluated(source), source, key)

    def kept(dataset: ImageDataset) -> ImageDataset:
        in_use = check_images and config.cache is not None
        return cached(dataset, str(config.cache), workers=workers) if in_use else dataset

    train, broken = _training_images(config, notes, workers=workers, decode=check_images)
    train = kept(train)
    test, val = evaluated_id(config.test, "data.test"), evaluated_id(config.val, "data.val")
    if val is not None and check_images:
        val = kept(without_broken(val, config, notes, workers=workers))
    ood, transfer = with_suite(config)
    data = prepare(
        id=test,
        id_train=train,
        id_val=val,
        hold_out=(config.val_fraction, seed),
        ood={name: entry.source for name, entry in ood.items()},
        transfer={name: task_sources(entry) for name, entry in transfer.items()},
        groups={name: entry.group for name, entry in ood.items()},
        opened=evaluated,
    )
    # Behind the split, which an evaluation makes without knowing them.
    data.id_train = _without(data.id_train, broken)
    data.id_val = None if data.id_val is None else _without(data.id_val, broken if val is None else [])
    if val is None and config.eval_limit is not None and data.id_val is not None:
        data.id_val = limit_total(data.id_val, config.eval_limit)
    tasks = [part for pair in data.transfer.values() if pair is not None for part in pair]
    for part in tasks:
        _labelled(part, part.name, "data.transfer")
    data.notes = [*notes, *data.notes, *_remarks([val, test, *data.ood.values(), *tasks])]
    if check_images:
        _compare(data)
    return data


def _training_images(
    config: DataConfig, notes: list[str], *, workers: int, decode: bool
) -> tuple[ImageDataset, list[tuple[str, str]]]:
    """ID train, whose classes all have names, and its broken images; what the scan finds is noted."""
    train = _labelled(open_configured(config, config.train, limit=config.limit), config.train, "data.train")
    train = align_classes(train, train.class_names or tuple(map(str, range(train.num_classes))))
    report = scan(train, workers=workers, decode=decode)
    notes += report.lines()
    _check_whole(train, report.broken, config.skip_broken)
    return train, report.broken


def open_configured(
    config: DataConfig, source: str, *, limit: int | None = None, most: int | None = None
) -> ImageDataset:
    """A source by the root and the pixel rules of the configuration: at most ``limit`` of a class, ``most`` in all."""
    dataset = open_dataset(source, root=config.root, limit=limit, max_inflated=config.max_inflated)
    dataset = dataset.with_pixels(config.pixels)
    return dataset if most is None else limit_total(dataset, most)


def with_suite(config: DataConfig) -> tuple[dict[str, OodSet], dict[str, TransferSet]]:
    """The sets of the suite and those named one by one, which win where both have a name."""
    suite = {"ood": {}, "transfer": {}} if config.suite is None else load_suite(config.suite)
    ood = {name: OodSet(**entry) for name, entry in suite["ood"].items()}
    transfer = {name: TransferSet(**entry) for name, entry in suite["transfer"].items()}
    return {**ood, **config.ood}, {**transfer, **config.transfer}


def task_sources(task: TransferSet) -> tuple[str, str]:
    """The sources of a task's train and test part."""
    whole = task.train.removesuffix("::@train")
    return (f"{whole}::@train", f"{whole}::@test") if task.test is None else (task.train, task.test)


def _labelled(dataset: ImageDataset, source: str, key: str) -> ImageDataset:
    """The set, if every image has a label."""
    without = int((dataset.targets < 0).sum())
    if len(dataset) == 0 or without == len(dataset):
        raise UserError(f"{key}: {source} has images without labels; expected {EXPECTED.split(',')[0]}.")
    if without:
        raise UserError(f"{key}: {without} of {len(dataset)} images of {source} have no label (-1): leave them out.")
    return dataset


def without_broken(dataset: ImageDataset, config: DataConfig, notes: list[str], *, workers: int = 0) -> ImageDataset:
    """The images of a set that can be decoded; those that cannot are noted.

    Raises:
        UserError: there are some, and the configuration does not say to leave them out.
    """
    broken = broken_images(dataset, workers=workers)
    _check_whole(dataset, broken, config.skip_broken)
    if broken:
        first, why = broken[0]
        notes.append(
            f"{dataset.name}: {len(broken)} of {len(dataset)} images cannot be read and are left out ({first}: {why})"
        )
    return _without(dataset, broken)


def _check_whole(dataset: ImageDataset, broken: list[tuple[str, str]], skip_broken: bool) -> None:
    if broken and not skip_broken:
        first, why = broken[0]
        count = "1 image" if len(broken) == 1 else f"{len(broken)} images, the first"
        how = "replace or remove it, or leave such images out with --data.skip_broken"
        raise UserError(f"{dataset.name}: cannot read {count}: {first} ({why}): {how}.")


def _without(dataset: ImageDataset, broken: list[tuple[str, str]]) -> ImageDataset:
    left_out = {name for name, _ in broken}
    if left_out.isdisjoint(dataset.ids):
        return dataset
    return dataset.subset([index for index, name in enumerate(dataset.ids) if name not in left_out])


def _remarks(datasets: Iterable[ImageDataset | None]) -> list[str]:
    """What the readers noted, once for the two shares of one source."""
    lines = [
        f"{dataset.name.partition('::@')[0]}: {note}"
        for dataset in datasets
        if dataset is not None
        for note in dataset.notes
    ]
    return list(dict.fromkeys(lines))


def _compare(data: Inputs) -> None:
    """Note the copies and class names that the sets share: they cap what any detector can reach."""
    named = {"ID train": data.id_train, "ID val": data.id_val, "ID test": data.id_test, **data.ood}
    sets = {name: dataset for name, dataset in named.items() if dataset is not None}
    roles: dict[str, Role] = {"ID train": "fit", "ID val": "choose"}
    found = find_overlaps(sets, {name: roles.get(name, "test") for name in sets})
    data.notes.extend(str(overlap) for overlap in found if overlap.first not in data.ood)
    for name, dataset in data.ood.items():
        shared = [] if dataset is None else shared_class_names(data.id_train, dataset)
        if shared:
            listed = ", ".join(shared[:8]) + (", ..." if len(shared) > 8 else "")
            data.notes.append(f"{name}: {len(shared)} of its classes shared with ID by name ({listed})")
