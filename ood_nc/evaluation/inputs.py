"""What an evaluation reads: the prepared sets, numbered and preprocessed as the model wants, checked for overlap."""

from __future__ import annotations

from typing import Any

from ood_nc.data import HELD_OUT_TRAIN, Inputs, eval_transform, prepare, public_name
from ood_nc.evaluation.fitting import number_classes
from ood_nc.evaluation.open_model import open_model
from ood_nc.evaluation.shared_images import note_shared_images


def open_inputs(model: Any, *, holds_out: bool = False, **sets: Any) -> tuple[Any, Inputs]:
    """The model (`open_model`) and its sets. Where its head was made for other classes it is not used.

    Args:
        model: as for `open_model`.
        holds_out: whether ID images outside the fits are needed; without ``id_val``, a tenth of ID train.
        **sets: as for `ood_nc.data.prepare`.

    Raises:
        UserError: as there, or an overlap that is refused.
    """
    inputs = prepare(**sets, hold_out=(HELD_OUT_TRAIN, 0) if holds_out else None)
    if inputs.id_val is not None and sets.get("id_val") is None:
        held_out = f"a tenth of ID train ({len(inputs.id_val)} images, stratified, seed 0)"
        inputs.notes.append(f"no ID validation set: {held_out} is held out of the fits")
    model = open_model(model, inputs.id_train.num_classes)
    others = {key: one for key, one in (("id_test", inputs.id_test), ("id_val", inputs.id_val)) if one is not None}
    inputs.id_train, numbered, inputs.head_fits, note = number_classes(model, inputs.id_train, list(others.values()))
    for key, dataset in zip(others, numbered, strict=True):
        setattr(inputs, key, dataset)
    inputs.notes += [note] if note else []
    _describe(inputs)
    note_shared_images(inputs)
    if model.preprocessing:
        inputs.apply(eval_transform(model.preprocessing))
    return model, inputs


def _describe(inputs: Inputs) -> None:
    """Fill in what is known of each set, for the identity of the results."""
    for key, present in inputs.all().items():
        known = {"source": present.name, "n": len(present), "fingerprint": present.fingerprint()}
        inputs.datasets[public_name(key)] = known
    for key in ("id_train", "id_test", "id_val"):
        if key in inputs.datasets:
            inputs.datasets[key]["group"] = "id"
    n_id = inputs.datasets["id_test"]["n"]
    for name in inputs.transfer:
        for part in ("train", "test"):
            inputs.datasets.setdefault(f"{name}/{part}", {"n": 0})["group"] = "transfer"
    for name, dataset in inputs.ood.items():
        entry = inputs.datasets.setdefault(name, {"n": 0})
        entry |= {"group": inputs.groups[name], "n_id": n_id, "base_rate": entry["n"] / (entry["n"] + n_id)}
        if dataset is None:
            inputs.notes.append(f"{name} holds no images: it is undefined and in no mean")
