"""The data of an experiment in their roles, opened, split and numbered alike: one preparation for every command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from ood_nc.config.values import is_taken
from ood_nc.data.adapters import as_dataset
from ood_nc.data.dataset import ImageDataset, align_classes, aligned_pair
from ood_nc.data.layout import NoImagesError
from ood_nc.data.splits import stratified_split, train_and_test
from ood_nc.errors import UserError, nearest

Source: TypeAlias = Any
"""What `ood_nc.data.as_dataset` opens: a name, a data set, a torch ``Dataset`` or ``DataLoader`` of (image, label)."""
TransferSource: TypeAlias = Any
"""A source, of which a fifth is the test part, or the pair (train, test)."""

VALIDATION_OOD = "validation_ood"
"""The key of the OOD set that chooses hyper-parameters."""
HELD_OUT_ID = 0.5
HELD_OUT_TRAIN = 0.1
_LISTED = 100


@dataclass
class Inputs:
    """The data sets of a run or an evaluation.

    Attributes:
        id_train: what the network, detectors and probes are fitted on.
        id_test: held-out ID; None where a run trains without.
        id_val: ID images that settle what is chosen (the epoch, scales, temperatures, hyper-parameters), where any is.
        validation_ood: the OOD set that hyper-parameters are chosen on, where one is named; it is in no result.
        ood: OOD sets by name; None for one without images.
        transfer: train and test of each transfer task; None for one without images.
        groups: near, far or covariate of each OOD set.
        chosen_on: what that set is called.
        head_fits: whether the head's outputs are the classes of the ID data.
        datasets: what is known of each set, for the results' identity.
        overlap: ids of each OOD set that are copies of ID images or show a class that is also an ID class.
        notes: findings for the reader, a line each.

    Example:
        >>> ood = {"near": "bundled/digits-near"}
        >>> inputs = prepare(id="bundled/digits-id::test", id_train=None, ood=ood, transfer={}, groups={})
        >>> sorted(inputs.all()), inputs.groups
        (['id_test', 'id_train', 'ood/near'], {'near': 'far'})
    """

    id_train: ImageDataset
    id_test: ImageDataset | None
    ood: dict[str, ImageDataset | None]
    transfer: dict[str, tuple[ImageDataset, ImageDataset] | None]
    groups: dict[str, str]
    id_val: ImageDataset | None = None
    validation_ood: ImageDataset | None = None
    chosen_on: str | None = None
    head_fits: bool = True
    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)
    overlap: dict[str, set[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def all(self) -> dict[str, ImageDataset]:
        """Every set that has images, by its key: ``id_train``, ``id_test``, ``id_val``, `VALIDATION_OOD`, `ood_key`,
        `transfer_keys`."""
        held_out = {"id_test": self.id_test, "id_val": self.id_val, VALIDATION_OOD: self.validation_ood}
        named = held_out | {ood_key(name): dataset for name, dataset in self.ood.items()}
        found = {"id_train": self.id_train} | {key: dataset for key, dataset in named.items() if dataset is not None}
        for name, pair in self.transfer.items():
            if pair is not None:
                found |= dict(zip(transfer_keys(name), pair, strict=True))
        return found

    def apply(self, transform: Callable[[Any], Any]) -> None:
        """Give every set this transform."""
        self.id_train = self.id_train.with_transform(transform)
        self.id_test = self.id_test and self.id_test.with_transform(transform)
        self.id_val = self.id_val and self.id_val.with_transform(transform)
        self.validation_ood = self.validation_ood and self.validation_ood.with_transform(transform)
        self.ood = {name: one and one.with_transform(transform) for name, one in self.ood.items()}
        for name, pair in self.transfer.items():
            self.transfer[name] = pair and (pair[0].with_transform(transform), pair[1].with_transform(transform))

    def note_broken(self, key: str, broken: list[tuple[str, str]]) -> None:
        """Record images of a set that could not be read: they are in no measurement."""
        if not broken:
            return
        entry = self.datasets[public_name(key)]
        entry["broken"] = {"count": len(broken), "first": [list(pair) for pair in broken[:_LISTED]]}
        first, why = broken[0]
        self.notes.append(
            f"{public_name(key)}: {len(broken)} of {entry['n']} images cannot be read and are left out ({first}: {why})"
        )


def ood_key(name: str) -> str:
    """The key of an OOD set, apart from a transfer set of the same name.

    Example:
        >>> ood_key("svhn")
        'ood/svhn'
    """
    return f"ood/{name}"


def transfer_keys(name: str) -> tuple[str, str]:
    """The keys of the train and the test part of a transfer set.

    Example:
        >>> transfer_keys("pets")
        ('transfer/pets/train', 'transfer/pets/test')
    """
    return f"transfer/{name}/train", f"transfer/{name}/test"


def public_name(key: str) -> str:
    """The name of a set in the results' identity: that of its rows, and the part of a transfer set.

    Example:
        >>> public_name("ood/svhn"), public_name("transfer/pets/test"), public_name("id_test")
        ('svhn', 'pets/test', 'id_test')
    """
    return key.removeprefix("ood/").removeprefix("transfer/")


def prepare(
    *,
    id: Source | None,
    id_train: Source | None,
    ood: Mapping[str, Source],
    transfer: Mapping[str, TransferSource],
    groups: Mapping[str, str],
    id_val: Source | None = None,
    hold_out: tuple[float, int] | None = None,
    choose_on: str | None = None,
    opened: Callable[[Source, str | None], ImageDataset] = as_dataset,
) -> Inputs:
    """Open every set, make the splits that are not given, and number classes by name, as ID train does.

    Args:
        id: held-out ID; None for a run that is trained only.
        id_train: ID train; without it half of ``id`` (stratified, seed 0) is fitted on and the other half tested.
        ood: OOD sets by name; one that holds no images is kept as None.
        transfer: (train, test), or one set, which is split four to one (stratified, seed 0); likewise.
        groups: near, far (when not given) or covariate of each OOD set.
        id_val: ID images that settle choices.
        hold_out: the share of ID train and the seed that make ``id_val`` where none is given; None holds out nothing.
        choose_on: the OOD set that hyper-parameters are chosen on.
        opened: opens a source, given what it is called.

    Raises:
        UserError: a source cannot be opened, an ID set has no images, a class is unknown, or a group is none of near,
            far, covariate.

    Example:
        >>> inputs = prepare(
        ...     id="bundled/digits-id::test", id_train="bundled/digits-id::train", ood={"near": "bundled/digits-near"},
        ...     transfer={"digits": "bundled/digits-transfer::train"}, groups={"near": "near"}, hold_out=(0.1, 0),
        ... )
        >>> {name: len(dataset) for name, dataset in inputs.all().items()}
        {'id_train': 540, 'id_test': 300, 'id_val': 61, 'ood/near': 363, 'transfer/digits/train': 142, ...}
    """
    for what, named in (("ood", ood), ("transfer", transfer)):
        if not isinstance(named, Mapping):
            raise UserError(f"{what} is a {type(named).__name__}: give a dictionary of sets by name.")
        if taken := next(filter(is_taken, named), None):
            raise UserError(f"A set cannot be called {taken!r}: the results call one of their own so.")
    for name, group in groups.items():
        if name not in ood:
            raise UserError(f"There is a group for {name!r}, but no such OOD set.{nearest(name, ood)}")
        if group not in ("near", "far", "covariate"):
            raise UserError(f"OOD set {name} has group {group!r}: use near, far or covariate.")
    notes: list[str] = []
    test = None if id is None else _with_images(opened(id, None))
    if id_train is not None:
        train = _with_images(opened(id_train, None))
    elif test is not None:
        train, test = _halves(test)
        notes.append("no ID train set: half of the ID set (stratified, seed 0) is fitted on, the other half tested")
    else:
        raise UserError("There is no ID set: give id or id_train.")
    val = None
    if id_val is not None:
        val = _with_images(opened(id_val, None))
    elif hold_out is not None:
        kept, held_out = stratified_split(train.targets, *hold_out)
        train, val = train.subset(kept, name=train.name), train.subset(held_out, name=f"{train.name} (held out)")
    if train.class_names is not None:
        test = test and align_classes(test, train.class_names)
        val = val and align_classes(val, train.class_names)
    sets = {name: _open_or_none(opened, source, name) for name, source in ood.items()}
    validation_ood = None if choose_on is None else _named(sets, choose_on, notes)
    return Inputs(
        id_train=train,
        id_test=test,
        id_val=val,
        validation_ood=validation_ood,
        chosen_on=choose_on,
        ood=sets,
        transfer={name: _transfer(opened, name, source) for name, source in transfer.items()},
        groups={name: groups.get(name, "far") for name in sets},
        notes=notes,
    )


def _halves(dataset: ImageDataset) -> tuple[ImageDataset, ImageDataset]:
    fitted, held_out = stratified_split(dataset.targets, HELD_OUT_ID, 0)
    return (
        dataset.subset(fitted, name=f"{dataset.name} (fit half)"),
        dataset.subset(held_out, name=f"{dataset.name} (test half)"),
    )


def _named(sets: dict[str, ImageDataset | None], name: str, notes: list[str]) -> ImageDataset:
    """Take the set that choices are made on out of the OOD sets."""
    if name not in sets:
        raise UserError(f"Hyper-parameters cannot be chosen on {name!r}: no such OOD set.{nearest(name, sets)}")
    chosen = sets.pop(name)
    if chosen is None:
        raise UserError(f"Hyper-parameters cannot be chosen on {name!r}: it holds no images.")
    notes.append(f"{name}: hyper-parameters are chosen on it, so it is in no result")
    return chosen


def _with_images(dataset: ImageDataset) -> ImageDataset:
    if len(dataset) == 0:
        raise UserError(f"The ID set {dataset.name} has no images.")
    return dataset


def _open_or_none(
    opened: Callable[[Source, str | None], ImageDataset], source: Source | None, name: str
) -> ImageDataset | None:
    """The set, or None for one that is there but holds no images."""
    try:
        dataset = None if source is None else opened(source, name)
    except NoImagesError:
        return None
    return dataset if dataset is not None and len(dataset) else None


def _transfer(
    opened: Callable[[Source, str | None], ImageDataset], name: str, source: TransferSource | None
) -> tuple[ImageDataset, ImageDataset] | None:
    if isinstance(source, list) and source and all(isinstance(part, str | Path) for part in source):
        source = tuple(source)  # the pair, as JSON and YAML have it
    if not isinstance(source, tuple):
        whole = _open_or_none(opened, source, name)
        return None if whole is None else train_and_test(whole)
    if len(source) != 2:
        raise UserError(
            f"Transfer set {name} is given in {len(source)} parts: give one set, or the pair (train, test)."
        )
    train, test = (_open_or_none(opened, part, name) for part in source)
    return None if train is None or test is None else aligned_pair(train, test)
