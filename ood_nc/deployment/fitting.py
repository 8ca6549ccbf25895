"""Fit a deployable detector: ID train features fit it, held-out ID images calibrate it, and no OOD image is seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ood_nc.data import ImageDataset, eval_transform, find_overlaps, stratified_split
from ood_nc.data.overlap import Role
from ood_nc.deployment.detector import Detector, Score
from ood_nc.deployment.members import Calibration, Member
from ood_nc.detection import (
    BaseDetector,
    FeatureDetector,
    InputDetector,
    Network,
    create_detector,
    create_feature_detector,
)
from ood_nc.errors import UserError, nearest
from ood_nc.evaluation.fitting import (
    SYNTHETIC,
    VALIDATION_OOD,
    BankExtractor,
    Extractor,
    Tuning,
    number_classes,
    order_note,
    statistics_of,
)
from ood_nc.evaluation.taps import labelled, open_tap
from ood_nc.features import FeatureBank, ImageBatches
from ood_nc.models import ControlledModel
from ood_nc.scores import ScoreEnsemble
from ood_nc.transfer import wilson_interval


def fit_detector(
    model: ControlledModel,
    train: ImageDataset,
    held_out: ImageDataset,
    *,
    detectors: Sequence[str] = ("knn",),
    taps: Sequence[str] | None = None,
    parameters: Mapping[str, Any] | None = None,
    combine: str = "fisher",
    tpr: float = 0.95,
    per_class: bool = False,
    choose: bool = False,
    validation_ood: ImageDataset | None = None,
    seed: int = 0,
    batch_size: int = 128,
    workers: int = 0,
    device: str | torch.device = "cpu",
    cache: str | Path | None = None,
) -> Detector:
    """Fit detectors on ID train features and calibrate them on held-out ID images.

    Where something is settled on held-out images before the calibration (the scale of an ensemble's members,
    hyper-parameters, a temperature), half of them (stratified) serve for that and the other half calibrate, so that the
    guarantee of threshold and p-values stands.

    Args:
        model: trained.
        train: ID images that were trained on, with labels.
        held_out: ID images that were not.
        detectors: names; each is fitted on each tap (an input detector once, on the whole network).
        taps: of the model; the one its head reads when not given.
        parameters: hyper-parameters of the detector, where there is one.
        combine: how several scores become one: rank, zscore or fisher.
        tpr: share of fresh ID images that is to be accepted at least.
        per_class: thresholds and p-values within each predicted class.
        choose: search the hyper-parameters, on held-out ID against synthetic outliers or ``validation_ood``.
        validation_ood: OOD images to choose hyper-parameters on; never report a result on them.
        seed: of probes, splits and subsamples.
        batch_size: images a forward pass.
        workers: processes that load images.
        device: where the network runs.
        cache: folder of feature banks.

    Raises:
        UserError: an unknown name, an impossible choice, or too few images.

    Example:
        >>> import torch
        >>> from ood_nc.data import eval_transform, open_dataset
        >>> from ood_nc.deployment import fit_detector
        >>> from ood_nc.models import ControlledModel
        >>> model = ControlledModel("test_vit", 10, img_size=32).eval()
        >>> prepare = eval_transform(model.preprocessing)
        >>> images = open_dataset("bundled/digits-id::test").with_transform(prepare)
        >>> train = open_dataset("bundled/digits-id::train").with_transform(prepare)
        >>> detector = fit_detector(model, train, images, detectors=["mahalanobis"])
        >>> detector
        Detector(mahalanobis on projector; accepts a score >= ..., TPR 0.95, 300 held-out ID images)
    """
    names = _known_taps(model, taps)
    if not detectors:
        raise UserError("No detector is named: give one of `ood-nc list detectors`.")
    if parameters and len(detectors) > 1:
        raise UserError("Hyper-parameters can be given to one detector only; several keep their defaults.")
    if validation_ood is not None and not choose:
        raise UserError("validation_ood serves to choose hyper-parameters: set choose too.")
    if not 0 < tpr < 1:
        raise UserError(f"tpr must be in (0, 1), got {tpr}.")
    prototypes = [create_detector(name, **(parameters or {})) for name in detectors]
    for prototype in prototypes if choose else ():
        if isinstance(prototype, InputDetector):
            raise UserError(f"Detector {prototype.name!r} needs the network: set its hyper-parameters by hand.")
    if len(held_out) == 0:
        raise UserError(f"The held-out ID set {held_out.name} has no images: a threshold needs some.")
    several = len(detectors) * len(names) > 1
    splits = several or choose or any(prototype.fits_on_held_out for prototype in prototypes)
    get = BankExtractor(model, cache, batch_size=batch_size, workers=workers, device=device)
    train, held_out, head_fits, note = _numbered(model, train, held_out)
    banks = _banks(get, train, held_out, validation_ood, splits, seed)
    tuning = Tuning(SYNTHETIC if validation_ood is None else "the validation OOD set", seed) if choose else None
    members, chosen = _on_features(model, names, prototypes, banks, tuning, head_fits=head_fits, seed=seed)
    for prototype in prototypes:
        if isinstance(prototype, InputDetector):
            batches = ImageBatches(train, batch_size=batch_size, workers=workers)
            members.append(Member(model.head_tap, prototype.fit(Network(model), batches)))
    about = {
        "detectors": [member.name for member in members],
        "head_fits": head_fits,
        "fitted_on": {"source": train.name, "n": len(train), "fingerprint": train.fingerprint()},
        "held_out": {"source": held_out.name, "n": len(held_out), "fingerprint": held_out.fingerprint()},
        "chosen": chosen,
        "notes": [one for one in (note, _order_note(banks, model.num_classes) if head_fits else "") if one],
    }
    # Scored by the finished detector itself, image by image: what calibrates it is what it will do.
    unit = Detector(model, members, None, Calibration(torch.zeros(1, dtype=torch.float64), None, tpr), about)
    ensemble = None
    if len(members) > 1:
        ensemble = ScoreEnsemble(combine).fit(_scores(unit, banks["id_val"], held_out, batch_size)[0])  # type: ignore[arg-type]
    scores, predictions = _scores(unit, banks["id_test"], held_out, batch_size)
    combined = scores[:, 0] if ensemble is None else ensemble.score(scores)
    calibration = Calibration(combined, predictions if per_class else None, tpr)
    return Detector(model, members, ensemble, calibration, about)


def _on_features(
    model: ControlledModel,
    taps: Sequence[str],
    prototypes: Sequence[BaseDetector],
    banks: Mapping[str, FeatureBank],
    tuning: Tuning | None,
    *,
    head_fits: bool,
    seed: int,
) -> tuple[list[Member], dict[str, Any]]:
    """The detectors of features, each fitted at each tap, and their hyper-parameters that were chosen."""
    members: list[Member] = []
    chosen: dict[str, Any] = {}
    for name in taps:
        tap = open_tap(model, name, banks, head_fits=head_fits, device=torch.device("cpu"), seed=seed)
        statistics = statistics_of(tap)
        for prototype in prototypes:
            if isinstance(prototype, FeatureDetector):
                fitted = create_feature_detector(prototype.name, **prototype.get_params())
                selection = None if tuning is None else tuning.choose(fitted, tap, statistics)
                if selection is not None:
                    record = {"parameters": selection.parameters, "auroc": selection.value}
                    chosen[f"{prototype.name} on {name}"] = record | {"selected_on": selection.selected_on}
                members.append(Member(name, fitted.fit(statistics)))
    return members, chosen


def share_passes(
    model: ControlledModel,
    train: ImageDataset,
    held_out: ImageDataset,
    *,
    validation_ood: ImageDataset | None = None,
    batch_size: int = 128,
    workers: int = 0,
    device: str | torch.device = "cpu",
    cache: str | Path | None = None,
) -> None:
    """What the other processes do under `torch.distributed` while the first calls `fit_detector`: their forward passes.

    The arguments are those of `fit_detector`.
    """
    get = BankExtractor(model, cache, batch_size=batch_size, workers=workers, device=device)
    train, held_out, _, _ = _numbered(model, train, held_out)
    _banks(get, train, held_out, validation_ood, False, 0)


def _numbered(
    model: ControlledModel, train: ImageDataset, held_out: ImageDataset
) -> tuple[ImageDataset, ImageDataset, bool, str]:
    """Both sets with the model's classes and transform, whether the head's outputs are these, and what to say of it."""
    train, (held_out,), head_fits, note = number_classes(model, train, [held_out])
    transform = eval_transform(model.preprocessing)
    return train.with_transform(transform), held_out.with_transform(transform), head_fits, note


def _order_note(banks: Mapping[str, FeatureBank], num_classes: int) -> str:
    """What to say where the head is right on held-out ID less often than by chance."""
    held_out = [banks[key] for key in ("id_val", "id_test") if key in banks]
    labels = torch.cat([bank.labels for bank in held_out])
    if not labelled(labels):
        return ""
    right = int((torch.cat([bank.logits for bank in held_out]).argmax(dim=1) == labels).sum())
    high = wilson_interval(right, len(labels))[1]
    return order_note(right / len(labels), high, num_classes, "the held-out ID images")


def _scores(
    detector: Detector, bank: FeatureBank, held_out: ImageDataset, batch_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The members' scores (n, m) and the predicted classes (n,) of images whose features are known."""

    def on_images(score: Score) -> torch.Tensor:
        wanted = set(bank.ids)
        rows = [index for index, name in enumerate(held_out.ids) if name in wanted]
        batches = ImageBatches(held_out.subset(rows), batch_size=batch_size)
        return torch.cat([score(images).cpu() for images, _ in batches])

    return detector.scores_of(bank.taps, bank.logits, on_images), bank.logits.argmax(dim=1)


def _banks(
    get: Extractor,
    train: ImageDataset,
    held_out: ImageDataset,
    validation_ood: ImageDataset | None,
    splits: bool,
    seed: int,
) -> dict[str, FeatureBank]:
    """Features of what is fitted on, calibrates (``id_test``), settles choices (``id_val``), and of validation OOD."""
    roles: dict[str, Role] = {"ID train": "fit", "the held-out ID set": "calibrate", "the validation OOD set": "choose"}
    given = dict(zip(roles, (train, held_out, validation_ood), strict=True))
    sets = {name: dataset for name, dataset in given.items() if dataset is not None}
    for found in find_overlaps(sets, roles):
        raise UserError(f"{found}: the detector would promise too much. Use other images.")
    whole = get(held_out)
    banks = {"id_test": whole}
    if splits:
        labels = whole.labels.numpy()
        halves = stratified_split(np.maximum(labels, 0), 0.5, seed)
        parts = [whole.select([whole.ids[row] for row in rows], labels[rows]) for rows in halves]
        banks = dict(zip(("id_val", "id_test"), parts, strict=True))
    if validation_ood is not None:
        banks[VALIDATION_OOD] = get(validation_ood.with_transform(train.transform))
    return {"id_train": get(train), **banks}


def _known_taps(model: ControlledModel, taps: Sequence[str] | None) -> list[str]:
    names = list(taps or [model.head_tap])
    for name in names:
        if name not in model.tap_names:
            raise UserError(
                f"The model has no tap {name!r}.{nearest(name, model.tap_names)} It has: {', '.join(model.tap_names)}."
            )
    return names
