"""The feature bank of every set of an evaluation, each image forwarded once however many sets it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from ood_nc.data import ImageDataset, Inputs, transfer_keys
from ood_nc.evaluation.fitting import VALIDATION_OOD, Extractor
from ood_nc.evaluation.taps import labelled
from ood_nc.features import FeatureBank, UnreadableError

_LISTED = 5


def extract_banks(
    inputs: Inputs, extractor: Extractor, *, begin: Callable[[Sequence[ImageDataset]], None] | None = None
) -> dict[str, FeatureBank]:
    """Extract the bank of every set, by its key.

    A set whose images are all in a larger one, as the halves of a transfer task are in the OOD set of the same source,
    takes its rows from there. An OOD or transfer set without a readable image has no bank, which is noted.

    Args:
        inputs: the sets; what cannot be read is noted in them.
        extractor: makes the bank of a data set.
        begin: is given the sets that will be extracted, before the first is.

    Raises:
        UnreadableError: none of the images of an ID set, or of the set that choices are made on, can be read.
    """
    datasets, wholes = inputs.all(), dict[str, str]()
    for key in sorted(datasets, key=lambda key: -len(datasets[key])):
        known = [one for one, whole in wholes.items() if one == whole]
        wholes[key] = next((one for one in known if _holds(datasets[one], datasets[key])), key)
    if begin is not None:
        begin([datasets[key] for key, whole in wholes.items() if key == whole])
    banks: dict[str, FeatureBank] = {}
    for key, whole in wholes.items():
        dataset = datasets[key]
        try:
            if key == whole or whole not in banks:
                banks[key] = extractor(dataset)
            else:
                banks[key] = _part(banks[whole], dataset)
        except UnreadableError as error:
            if key in ("id_train", "id_test", "id_val", VALIDATION_OOD):
                raise
            inputs.notes.append(f"{error} It is undefined and in no mean.")
            continue
        inputs.note_broken(key, banks[key].broken)
    return {key: banks[key] for key in datasets if key in banks}


def untaught_notes(inputs: Inputs, banks: Mapping[str, FeatureBank]) -> list[str]:
    """A line for each test set with images of a class that its training set has no readable image of."""
    pairs = {"ID test": ("id_train", "id_test")} | {name: transfer_keys(name) for name in inputs.transfer}
    notes, datasets = [], inputs.all()
    for name, (train, test) in pairs.items():
        if train not in banks or test not in banks or not all(labelled(banks[key].labels) for key in (train, test)):
            continue
        labels = banks[test].labels
        alone = labels[~torch.isin(labels, banks[train].labels)]
        if len(alone):
            names = datasets[train].class_names
            classes = [str(one) if names is None else names[one] for one in alone.unique().tolist()]
            more = f" and {len(classes) - _LISTED} more" if len(classes) > _LISTED else ""
            notes.append(
                f"{name}: {len(alone)} of {len(labels)} test images are of classes without a training image "
                f"({', '.join(classes[:_LISTED])}{more}); a probe is wrong on them whatever it says"
            )
    return notes


def _part(whole: FeatureBank, dataset: ImageDataset) -> FeatureBank:
    bank = whole.select(dataset.ids, dataset.targets)
    if len(bank) == 0:
        raise UnreadableError(f"None of the {len(dataset)} images of {dataset.name} can be read.")
    return bank


def _holds(whole: ImageDataset, part: ImageDataset) -> bool:
    """Whether every image of ``part`` is in ``whole``, by its id, size and the hash of its end (as in fingerprints)."""
    position = {name: index for index, name in enumerate(whole.ids)}
    if len(position) < len(whole) or not all(name in position for name in part.ids):
        return False
    return all(whole.mark(position[name]) == part.mark(index) for index, name in enumerate(part.ids))


def same_taps(
    names: Iterable[str], banks: Mapping[str, FeatureBank], *, preferred: Sequence[str]
) -> dict[str, list[str]]:
    """The taps to measure, in depth order, each with its aliases: taps that hold the same tensor on every set.

    Args:
        names: of all taps.
        banks: by set key.
        preferred: the taps under whose names the others are measured, where it comes to that.
    """
    names = list(names)
    found: dict[str, list[str]] = {}
    for name in sorted(names, key=lambda name: name not in preferred):
        twins = (one for one in found if all(torch.equal(bank.taps[one], bank.taps[name]) for bank in banks.values()))
        twin = next(twins, None)
        if twin is None:
            found[name] = []
        else:
            found[twin].append(name)
    return {name: found[name] for name in names if name in found}
