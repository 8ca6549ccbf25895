"""What the sets of an evaluation share, and what follows from it: the one rule on images that are used twice.

An image that is tested must not have settled anything:

- *chooses and is tested*: an OOD set that hyper-parameters are chosen on is refused where it shares an image with a
  tested set, whatever the two are called; images of ID validation that are tested too are taken out of it, and noted;
- *is fitted on and is tested* (ID train, the train part of a transfer task): the network or the probe has seen it, so
  it is counted in a note, and an OOD set is measured once more without it, as ``NAME (disjoint)``;
- *is tested twice* (an OOD set that holds ID test images, two names of one set): likewise counted in a note, and an OOD
  set with ID test images is measured once more without them.

Images are compared by content (`ood_nc.data.find_overlaps`), never by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ood_nc.data import (
    VALIDATION_OOD,
    ImageDataset,
    Inputs,
    Overlap,
    find_overlaps,
    native_sizes,
    shared_class_names,
    size_cue,
)
from ood_nc.errors import UserError

_ROLES = {"id_train": "fit", "id_val": "choose", VALIDATION_OOD: "choose"}
_CALLED = {"id_train": "ID train", "id_val": "ID validation", "id_test": "ID test"}
_LISTED = 100


def note_shared_images(inputs: Inputs) -> None:
    """Find every overlap and apply the rule: notes, what is left of ID validation, and ``inputs.overlap``.

    Raises:
        UserError: the OOD set that hyper-parameters are chosen on shares images with a tested set, or nothing is left
            of ID validation.
    """
    for found in _overlaps(inputs.all()):
        if found.first == VALIDATION_OOD and found.leaks:
            raise UserError(
                f"Hyper-parameters cannot be chosen on {inputs.chosen_on!r}: {len(found.ids)} of the {found.n} images "
                f"of {_called(found.second)} are also in it (first: {found.ids[0]}). Choose on images not tested."
            )
        if found.first == "id_val" and found.leaks:
            _take_out(inputs, found)
        elif inputs.groups.get(_called(found.second)) != "covariate":
            _note(inputs, found)
    for name, dataset in inputs.ood.items():
        if dataset is not None and inputs.groups[name] != "covariate":
            _note_shared_classes(inputs, name, dataset)
    _note_sizes(inputs)


def _overlaps(sets: Mapping[str, ImageDataset]) -> Iterator[Overlap]:
    """Every overlap that matters: a transfer task is its own problem, which only shares the network with the others."""
    roles = {key: _ROLES.get(key, "fit" if _is_task(key) and key.endswith("/train") else "test") for key in sets}
    for found in find_overlaps(sets, roles):  # type: ignore[arg-type]
        task = found.second.removesuffix("/test")
        within = found.leaks and _is_task(task) and found.first in ("id_train", f"{task}/train")
        if within or not (_is_task(found.first) or _is_task(found.second)):
            yield found


def _is_task(key: str) -> bool:
    return key.startswith("transfer/")


def _take_out(inputs: Inputs, found: Overlap) -> None:
    """Leave the images that are tested too out of ID validation."""
    assert inputs.id_val is not None
    tested = inputs.all()[found.second]
    shared = set(found.ids)
    marks = {tested.mark(index) for index, name in enumerate(tested.ids) if name in shared}
    kept = [index for index in range(len(inputs.id_val)) if inputs.id_val.mark(index) not in marks]
    if not kept:
        raise UserError(f"All images of ID validation are also in {_called(found.second)}: hold others out (id_val).")
    out = len(inputs.id_val) - len(kept)
    inputs.notes.append(f"ID validation: {out} images that are also in {_called(found.second)} are taken out of it")
    inputs.id_val = inputs.id_val.subset(kept)


def _note(inputs: Inputs, found: Overlap) -> None:
    """Count the images in the entry of the later set, and list them where its numbers are given without them."""
    first, second = _called(found.first), _called(found.second)
    inputs.notes.append(f"{second}: {len(found.ids)} of {found.n} images are also in {first} (first: {found.ids[0]})")
    is_ood = found.second.startswith("ood/")
    if is_ood and found.first in _CALLED:
        inputs.overlap.setdefault(second, set()).update(found.ids)
    entry = inputs.datasets[second if is_ood or _is_task(found.second) else found.second].setdefault("duplicates", {})
    entry[found.first.removeprefix("ood/")] = {"count": len(found.ids), "ids": list(found.ids[:_LISTED])}


def _note_shared_classes(inputs: Inputs, name: str, dataset: ImageDataset) -> None:
    classes = shared_class_names(inputs.id_train, dataset)
    inputs.datasets[name].setdefault("duplicates", {})
    inputs.datasets[name]["shared_classes"] = classes
    if classes:
        inputs.notes.append(f"{name}: classes {', '.join(classes)} are also ID classes")
        indices = [(dataset.class_names or ()).index(found) for found in classes]
        rows = np.flatnonzero(np.isin(dataset.targets, indices))
        inputs.overlap.setdefault(name, set()).update(dataset.ids[row] for row in rows)


def _note_sizes(inputs: Inputs) -> None:
    """Note the OOD sets that the native size of their images gives away."""
    id_sizes = native_sizes(inputs.all()["id_test"])
    for name, dataset in inputs.ood.items():
        cue = None if dataset is None else size_cue(id_sizes, native_sizes(dataset))
        if cue is not None:
            inputs.notes.append(f"{name}: {cue}")


def _called(key: str) -> str:
    return _CALLED.get(key, key.removeprefix("ood/").removeprefix("transfer/"))
