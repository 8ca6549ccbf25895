"""The feature bank of every set of an evaluation, each image forwarded once however many sets it belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from ood_nc.data import ImageDataset, Inputs
from ood_nc.evaluation.fitting import VALIDATION_OOD, Extractor
from ood_nc.features import FeatureBank, UnreadableError


def extract_banks(inputs: Inputs, extractor: Extractor) -> dict[str, FeatureBank]:
    """Extract the bank of every set, by its key.

    A set whose images are all in a larger one, as the halves of a transfer task are in the OOD set of the same source,
    takes its rows from there. An OOD or transfer set without a readable image has no bank, which is noted.

    Args:
        inputs: the sets; what cannot be read is noted in them.
        extractor: makes the bank of a data set.

    Raises:
        UnreadableError: none of the images of an ID set, or of the set that choices are made on, can be read.
    """
    extracted: list[tuple[ImageDataset, FeatureBank]] = []
    banks: dict[str, FeatureBank] = {}
    datasets = inputs.all()
    for key in sorted(datasets, key=lambda key: -len(datasets[key])):
        dataset = datasets[key]
        bank = next(
            (known.select(dataset.ids, dataset.targets) for whole, known in extracted if _holds(whole, dataset)), None
        )
        try:
            if bank is None:
                bank = extractor(dataset)
                extracted.append((dataset, bank))
            elif len(bank) == 0:
                raise UnreadableError(f"None of the {len(dataset)} images of {dataset.name} can be read.")
        except UnreadableError as error:
            if key in ("id_train", "id_test", "id_val", VALIDATION_OOD):
                raise
            inputs.notes.append(f"{error} It is undefined and in no mean.")
            continue
        banks[key] = bank
        inputs.note_broken(key, bank.broken)
    return {key: banks[key] for key in datasets if key in banks}


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
