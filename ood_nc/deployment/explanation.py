"""Why a detector decides as it does for one image: the decision, how typical the image is at every tap, what is near.

The training images are given, not kept in the detector's file: that file goes where images are judged, and need not
carry what it was trained on there; whoever explains a decision has them.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ood_nc.config import PixelConfig
from ood_nc.data import ImageDataset
from ood_nc.data.pixels import read_image
from ood_nc.data.thumbnails import thumbnail
from ood_nc.deployment.detector import Detector
from ood_nc.deployment.images import as_batch
from ood_nc.detection import InputDetector
from ood_nc.errors import UserError
from ood_nc.evaluation.fitting import BankExtractor
from ood_nc.features import FeatureBank
from ood_nc.passes import evaluating

_NEAREST = 8
_KTH = 10
_REFERENCE = 1000
_LARGE, _SMALL = 320, 96
_BINS = 40
_BLOCK = 8192


def explain(
    detector: Detector,
    image: str | Path,
    train: ImageDataset,
    *,
    pixels: PixelConfig | None = None,
    batch_size: int = 128,
    workers: int = 0,
    cache: str | Path | None = None,
) -> dict[str, Any]:
    """What is to be known of a detector's decision on one image, as plain values.

    At a tap an image is as typical as the training images are among themselves: its distance to the tenth nearest
    training image, features on the unit sphere, is ranked among the same distance of (at most 1,000) training images
    to the others.

    Args:
        detector: fitted.
        image: path of the image.
        train: training images; those the detector was fitted on.
        pixels: how the image is stored, where otherwise than those.
        batch_size: images a forward pass.
        workers: processes that load images.
        cache: folder of feature banks.

    Returns:
        ``image`` (name, thumbnail), ``accepted``, ``score``, ``p_value``, ``threshold``, ``tpr``, ``prediction``,
        ``detectors``, ``histogram`` (edges and counts of the held-out ID scores: those of the predicted class, where it
        has a threshold of its own), ``taps`` (of each the ``percentile``, 0 where the image is farther than every
        training image, and the ``nearest`` with class, distance and thumbnail; ``read`` says whether the detector reads
        it), ``train`` and ``notes``.

    Raises:
        UserError: the image cannot be read, or there are too few training images.
    """
    judged = copy.copy(detector.transform)
    judged.pixels = pixels or judged.pixels
    batch, _ = as_batch(image, judged, detector.model.preprocessing["input_size"])
    assert batch is not None
    verdict = detector(batch)
    extract = BankExtractor(detector.model, cache, batch_size=batch_size, workers=workers, device=detector.device)
    train = train.with_transform(detector.transform)
    bank = extract(train)
    if len(bank) <= _KTH:
        raise UserError(f"{train.name} has {len(bank)} readable images: to tell what is typical takes {_KTH + 1}.")
    with torch.inference_mode(), evaluating(detector.model):
        _, values = detector.model.forward_taps(batch.to(detector.device))
    read = {member.tap for member in detector.members}
    shown = _Shown(train, bank)
    prediction, name = int(verdict.predictions[0]), verdict.predicted_names[0]
    held_out = _held_out_beside(detector, prediction)
    return {
        "image": {
            "name": str(image),
            "thumbnail": thumbnail(read_image(image, judged.channels, judged.pixels), _LARGE),
        },
        "accepted": bool(verdict.accepted[0]),
        "score": float(verdict.scores[0]),
        "p_value": float(verdict.p_values[0]),
        "threshold": detector.limit(prediction),
        "tpr": float(detector.calibration.tpr),
        "prediction": name,
        "detectors": [member.name for member in detector.members],
        "histogram": _histogram(held_out.numpy(), float(verdict.scores[0])),
        "taps": [
            {"name": tap, "read": tap in read, **_at_tap(bank.taps[tap], values[tap][0].cpu(), shown)}
            for tap in detector.model.tap_names
            if tap in bank.taps
        ],
        "train": {"name": train.name, "n": len(bank)},
        "notes": _notes(detector, train, name, len(held_out)),
    }


def _held_out_beside(detector: Detector, prediction: int) -> torch.Tensor:
    """The held-out scores that an image of this predicted class is judged by."""
    scores, classes = detector.calibration.scores, detector.calibration.classes
    return scores if classes is None else scores[classes == prediction]


def _notes(detector: Detector, train: ImageDataset, prediction: str | None, held_out: int) -> list[str]:
    notes = []
    if detector.calibration.classes is not None:
        notes.append(f"judged by the {held_out} held-out ID images that are predicted as {prediction} as well")
    fitted_on = detector.about.get("fitted_on") or {}
    if fitted_on.get("n", len(train)) != len(train):
        notes.append(
            f"the detector was fitted on {fitted_on['n']} images of {fitted_on.get('source')}, near are shown among "
            f"{len(train)} of {train.name}"
        )
    if any(isinstance(member.detector, InputDetector) for member in detector.members):
        notes.append("the detector reads the whole network: a tap shows where the image is far, not what decides")
    return notes


class _Shown:
    """Training images by their row in the bank; each is decoded once."""

    def __init__(self, train: ImageDataset, bank: FeatureBank) -> None:
        self.train, self.ids = train, bank.ids
        self.places = {name: place for place, name in enumerate(train.ids)}
        self.made: dict[int, dict[str, Any]] = {}

    def __call__(self, row: int) -> dict[str, Any]:
        if row not in self.made:
            place = self.places[self.ids[row]]
            label, names = int(self.train.targets[place]), self.train.class_names
            self.made[row] = {
                "id": self.ids[row],
                "class": "" if label < 0 else str(label) if names is None else names[label],
                "thumbnail": thumbnail(self.train.load(place), _SMALL),
            }
        return self.made[row]


def _at_tap(bank: torch.Tensor, query: torch.Tensor, shown: _Shown) -> dict[str, Any]:
    """How typical the image is, and what is nearest to it, by distances of unit vectors in float64."""
    sample = np.unique(np.linspace(0, len(bank) - 1, min(_REFERENCE, len(bank))).astype(np.int64))
    distances, rows = _nearest(_unit(torch.cat([query[None].to(bank.dtype), bank[sample]])), bank, _KTH + 1)
    own, typical = float(distances[0, _KTH - 1]), distances[1:, _KTH]  # each of the sample finds itself first
    return {
        "percentile": 100 * float(np.mean(typical >= own)),
        "distance": own,
        "usual": float(np.median(typical)),
        "nearest": [
            {**shown(int(row)), "distance": float(distance)}
            for row, distance in zip(rows[0, :_NEAREST], distances[0], strict=False)
        ],
    }


def _nearest(queries: NDArray[np.float64], bank: torch.Tensor, k: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The k smallest distances of each query, in order, and their rows; a block of the bank at a time."""
    best, rows = np.empty((len(queries), 0)), np.empty((len(queries), 0), dtype=np.int64)
    for start in range(0, len(bank), _BLOCK):
        found = np.sqrt(np.maximum(2 - 2 * queries @ _unit(bank[start : start + _BLOCK]).T, 0))
        places = np.broadcast_to(np.arange(start, start + found.shape[1]), found.shape)
        best, rows = np.concatenate([best, found], axis=1), np.concatenate([rows, places], axis=1)
        kept = np.argpartition(best, min(k, best.shape[1]) - 1, axis=1)[:, :k]
        best, rows = np.take_along_axis(best, kept, axis=1), np.take_along_axis(rows, kept, axis=1)
    order = np.argsort(best, axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1), np.take_along_axis(rows, order, axis=1)


def _unit(rows: torch.Tensor) -> NDArray[np.float64]:
    values = rows.double().numpy()
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


def _histogram(held_out: NDArray[np.float64], score: float) -> dict[str, Any]:
    """Counts of the held-out ID scores on a range that holds the image's score too."""
    shown = np.append(held_out, score)
    counts, edges = np.histogram(held_out, bins=_BINS, range=(shown.min(), shown.max()))
    return {"edges": edges.tolist(), "counts": counts.tolist()}
