"""What an evaluation reads: data sets opened, preprocessed alike, numbered alike, and checked for overlap with ID."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ood_nc.data import (
    ImageDataset,
    NoImagesError,
    aligned_pair,
    as_dataset,
    eval_transform,
    stratified_split,
    train_and_test,
)
from ood_nc.errors import UserError, nearest
from ood_nc.evaluation.fitting import VALIDATION_OOD, number_classes
from ood_nc.evaluation.open_model import open_model
from ood_nc.evaluation.shared_images import note_shared_images

Source: TypeAlias = Any
"""What `ood_nc.data.as_dataset` opens: a name, a data set, a torch ``Dataset`` or ``DataLoader`` of (image, label)."""
TransferSource: TypeAlias = Any
"""A source, of which a fifth is the test part, or the pair (train, test)."""

HELD_OUT_ID = 0.5
HELD_OUT_TRAIN = 0.1
_LISTED = 100


@dataclass
class Inputs:
    """The data sets of an evaluation, ready for the model.

    Attributes:
        id_train: what detectors and probes are fitted on.
        id_test: held-out ID.
        id_val: ID images that settle what detectors choose (scales, temperatures, hyper-parameters), where any does.
        validation_ood: the OOD set that hyper-parameters are chosen on, where one is named; it is in no result.
        ood: OOD sets by name; None for one without images.
        transfer: train and test of each transfer task; None for one without images.
        groups: near, far or covariate of each OOD set.
        chosen_on: what that set is called.
        head_fits: whether the head's outputs are the classes of the ID data.
        datasets: what is known of each set, for the results' identity.
        overlap: ids of each OOD set that are copies of ID images or show a class that is also an ID class.
        notes: findings for the reader, a line each.
    """

    id_train: ImageDataset
    id_test: ImageDataset
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
        found = {"id_train": self.id_train, "id_test": self.id_test}
        found |= {
            key: dataset
            for key, dataset in (("id_val", self.id_val), (VALIDATION_OOD, self.validation_ood))
            if dataset is not None
        }
        found |= {ood_key(name): dataset for name, dataset in self.ood.items() if dataset is not None}
        for name, pair in self.transfer.items():
            if pair is not None:
                found |= dict(zip(transfer_keys(name), pair, strict=True))
        return found

    def apply(self, transform: Callable[[Any], Any]) -> None:
        """Give every set this transform."""
        self.id_train, self.id_test = self.id_train.with_transform(transform), self.id_test.with_transform(transform)
        self.id_val = self.id_val and self.id_val.with_transform(transform)
        self.validation_ood = self.validation_ood and self.validation_ood.with_transform(transform)
        self.ood = {name: one and one.with_transform(transform) for name, one in self.ood.items()}
        for name, pair in self.transfer.items():
            self.transfer[name] = pair and (pair[0].with_transform(transform), pair[1].with_transform(transform))

    def note_broken(self, key: str, broken: list[tuple[str, str]]) -> None:
        """Record images of a set that could not be read: they are in no measurement."""
        if not broken:
            return
        entry = self.datasets[_public(key)]
        entry["broken"] = {"count": len(broken), "first": [list(pair) for pair in broken[:_LISTED]]}
        first, why = broken[0]
        self.notes.append(
            f"{_public(key)}: {len(broken)} of {entry['n']} images cannot be read and are left out ({first}: {why})"
        )


def ood_key(name: str) -> str:
    """The key of an OOD set, apart from a transfer set of the same name."""
    return f"ood/{name}"


def transfer_keys(name: str) -> tuple[str, str]:
    """The keys of the train and the test part of a transfer set."""
    return f"transfer/{name}/train", f"transfer/{name}/test"


def _public(key: str) -> str:
    """The name of a set in the results' identity: that of its rows, and the part of a transfer set."""
    return key.removeprefix("ood/").removeprefix("transfer/")


def prepare(
    model: Any,
    *,
    id: Source,
    id_train: Source | None,
    ood: Mapping[str, Source],
    transfer: Mapping[str, TransferSource],
    groups: Mapping[str, str],
    id_val: Source | None = None,
    holds_out: bool = False,
    choose_on: str | None = None,
) -> tuple[Any, Inputs]:
    """Open the model (`open_model`) and every set, and give all of them the model's own preprocessing.

    Without ``id_train`` half of ``id`` (stratified, seed 0) is what is fitted on and the other half what is tested.
    Where a set is to be held out (``holds_out``) and ``id_val`` is not given, a tenth of the ID train set is; else
    ``id_val`` is not read. ``choose_on`` names the OOD set that hyper-parameters are chosen on.
    A transfer task given as one set is split four to one in the same way. Classes are numbered by name, as the model
    stores them; where the head was made for other classes it is not used.

    Raises:
        UserError: a source cannot be opened, an ID set has no images, a class is unknown, or a group is none of near,
            far, covariate.
    """
    for name, group in groups.items():
        if name not in ood:
            raise UserError(f"There is a group for {name!r}, but no such OOD set.{nearest(name, ood)}")
        if group not in ("near", "far", "covariate"):
            raise UserError(f"OOD set {name} has group {group!r}: use near, far or covariate.")
    notes: list[str] = []
    test = _open(id)
    if id_train is None:
        fitted, held_out = stratified_split(test.targets, HELD_OUT_ID, 0)
        train, test = (
            test.subset(fitted, name=f"{test.name} (fit half)"),
            test.subset(held_out, name=f"{test.name} (test half)"),
        )
        notes.append("no ID train set: half of the ID set (stratified, seed 0) is fitted on, the other half tested")
    else:
        train = _open(id_train)
    train, val = _validation(train, id_val, notes) if holds_out else (train, None)
    model = open_model(model, train.num_classes)
    train, others, head_fits, note = number_classes(model, train, [test] if val is None else [test, val])
    test, val = others[0], None if val is None else others[1]
    notes += [note] if note else []
    sets = {name: _open_or_none(source, name) for name, source in ood.items()}
    validation_ood = None
    if choose_on is not None:
        validation_ood = _named(sets, choose_on, notes)
        groups = {name: group for name, group in groups.items() if name != choose_on}
    inputs = Inputs(
        id_train=train,
        id_test=test,
        id_val=val,
        validation_ood=validation_ood,
        chosen_on=choose_on,
        ood=sets,
        transfer={name: _transfer(name, source) for name, source in transfer.items()},
        groups={name: groups.get(name, "far") for name in sets},
        head_fits=head_fits,
        notes=notes,
    )
    _describe(inputs)
    note_shared_images(inputs)
    if model.preprocessing:
        inputs.apply(eval_transform(model.preprocessing))
    return model, inputs


def _validation(train: ImageDataset, given: Source | None, notes: list[str]) -> tuple[ImageDataset, ImageDataset]:
    """What is left to fit on, and the ID images that settle choices."""
    if given is not None:
        return train, _open(given)
    kept, held_out = stratified_split(train.targets, HELD_OUT_TRAIN, 0)
    n = len(held_out)
    notes.append(f"no ID validation set: a tenth of ID train ({n} images, stratified, seed 0) is held out of the fits")
    return train.subset(kept, name=train.name), train.subset(held_out, name=f"{train.name} (held out)")


def _named(sets: dict[str, ImageDataset | None], name: str, notes: list[str]) -> ImageDataset:
    """Take the set that choices are made on out of the OOD sets."""
    if name not in sets:
        raise UserError(f"Hyper-parameters cannot be chosen on {name!r}: no such OOD set.{nearest(name, sets)}")
    chosen = sets.pop(name)
    if chosen is None:
        raise UserError(f"Hyper-parameters cannot be chosen on {name!r}: it holds no images.")
    notes.append(f"{name}: hyper-parameters are chosen on it, so it is in no result")
    return chosen


def _open(source: Source) -> ImageDataset:
    dataset = as_dataset(source)
    if len(dataset) == 0:
        raise UserError(f"The ID set {dataset.name} has no images.")
    return dataset


def _open_or_none(source: Source, name: str | None = None) -> ImageDataset | None:
    """The set, or None for one that is there but holds no images."""
    try:
        dataset = as_dataset(source, name)
    except NoImagesError:
        return None
    return dataset if len(dataset) else None


def _transfer(name: str, source: TransferSource) -> tuple[ImageDataset, ImageDataset] | None:
    if not isinstance(source, tuple):
        whole = _open_or_none(source, name)
        if whole is None:
            return None
        return train_and_test(whole)
    train, test = (_open_or_none(part, name) for part in source)
    return None if train is None or test is None else aligned_pair(train, test)


def _describe(inputs: Inputs) -> None:
    """Fill in what is known of each set."""
    for key, present in inputs.all().items():
        known = {"source": present.name, "n": len(present), "fingerprint": present.fingerprint()}
        inputs.datasets[_public(key)] = known
    for key in ("id_train", "id_test", "id_val"):
        if key in inputs.datasets:
            inputs.datasets[key]["group"] = "id"
    n_id = len(inputs.id_test)
    for name in inputs.transfer:
        for part in ("train", "test"):
            inputs.datasets.setdefault(f"{name}/{part}", {"n": 0})["group"] = "transfer"
    for name, dataset in inputs.ood.items():
        entry = inputs.datasets.setdefault(name, {"n": 0})
        entry |= {"group": inputs.groups[name], "n_id": n_id, "base_rate": entry["n"] / (entry["n"] + n_id)}
        if dataset is None:
            inputs.notes.append(f"{name} holds no images: it is undefined and in no mean")
