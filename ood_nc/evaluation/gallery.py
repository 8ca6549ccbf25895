"""Images to look at: those a detector is surest of, what in ID train is near each, and how every tap sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from ood_nc.data import BrokenImageError, ImageDataset, ood_key
from ood_nc.data.thumbnails import thumbnail
from ood_nc.evaluation.detection import Scores
from ood_nc.evaluation.findings import Found
from ood_nc.evaluation.measurement_plan import Plan
from ood_nc.headline import headline

SHOWN = 4
"""Images of a kind and set."""
NEAREST = 3
"""ID train images beside each, by the cosine of their features."""
_ROWS_AT_ONCE = 1 << 14


def gallery(plan: Plan, found: Found, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Of each OOD set the images accepted and rejected most confidently, and the ID images rejected most confidently.

    By the headline's first detector at the tap that the head reads. The percentile of an image at a tap is the share of
    held-out ID images that score lower there, by the same detector.

    Args:
        plan: what was measured with.
        found: the scores.
        identity: with ``taps``, ``head_tap``, ``detectors``.

    Returns:
        ``tap``, ``detector``, ``rows`` (``dataset, kind, images``; of an image ``id, score, percentiles`` by tap and
        ``near``, ids and classes of ID train images) and ``thumbnails``, by data set and id. Empty where there are no
        images, or the detector gave no scores.
    """
    chosen = headline(identity)
    tap, detector = chosen.detection_tap, next(iter(chosen.detectors), "")
    scores = found.scores.get(tap, {}).get(detector, {})
    can_be_shown = plan.inputs.id_test is not None and plan.inputs.id_test.transform is not None
    if not can_be_shown or "id_test" not in scores or tap not in plan.banks["id_train"].taps:
        return {}
    wanted = [("id_test", "rejected", _order(scores["id_test"])[:SHOWN])]
    for name in plan.inputs.ood:
        if (key := ood_key(name)) in scores:
            order = _order(scores[key])
            wanted += [(key, "accepted", order[::-1][:SHOWN].copy()), (key, "rejected", order[:SHOWN])]
    views = {name: by_detector.get(detector, {}) for name, by_detector in found.scores.items()}
    train, sets = plan.banks["id_train"], plan.inputs.all()
    rows: list[dict[str, Any]] = []
    pictures = _Pictures(sets)
    queries = [plan.banks[key].taps[tap][torch.from_numpy(positions)] for key, _, positions in wanted]
    near = iter(_nearest(torch.cat(queries), train.taps[tap]))
    for key, kind, positions in wanted:
        bank = plan.banks[key]
        images: list[dict[str, Any]] = []
        for position, neighbours in zip(positions.tolist(), near, strict=False):
            ids = [train.ids[row] for row in neighbours]
            if pictures.add(key, bank.ids[position]) and all(pictures.add("id_train", name) for name in ids):
                classes = [_class_name(plan, int(train.labels[row])) for row in neighbours]
                entry: dict[str, Any] = {"id": bank.ids[position], "score": float(scores[key][position])}
                entry["percentiles"] = _percentiles(views, key, position)
                images.append({**entry, "near": [list(pair) for pair in zip(ids, classes, strict=True)]})
        rows.append({"dataset": key.removeprefix("ood/"), "kind": kind, "images": images})
    return {"tap": tap, "detector": detector, "rows": rows, "thumbnails": pictures.made}


class _Pictures:
    """Thumbnails by data set and id, each made once."""

    def __init__(self, sets: Mapping[str, ImageDataset]) -> None:
        self.made: dict[str, dict[str, str]] = {}
        self._sets = sets
        self._places: dict[str, dict[str, int]] = {}

    def add(self, key: str, name: str) -> bool:
        """Whether the image can be shown."""
        made = self.made.setdefault(key.removeprefix("ood/"), {})
        if name not in made:
            if key not in self._places:
                self._places[key] = {one: place for place, one in enumerate(self._sets[key].ids)}
            try:
                made[name] = thumbnail(self._sets[key].load(self._places[key][name]))
            except BrokenImageError:
                return False
        return True


def _order(scores: Scores) -> np.ndarray[Any, Any]:
    """Positions from the lowest score to the highest, equals in the order of the set."""
    return np.argsort(scores, kind="stable")


def _nearest(queries: torch.Tensor, train: torch.Tensor) -> list[list[int]]:
    units = normalize(queries.float(), dim=1)
    # Cosines alone of all rows: the rows once more in float32 may be too many.
    cosines = torch.cat([units @ normalize(block.float(), dim=1).T for block in train.split(_ROWS_AT_ONCE)], dim=1)
    found: list[list[int]] = cosines.topk(min(NEAREST, len(train)), dim=1).indices.tolist()
    return found


def _percentiles(views: Mapping[str, Mapping[str, Scores]], key: str, position: int) -> dict[str, float]:
    return {
        tap: float(100 * (scores["id_test"] < scores[key][position]).mean())
        for tap, scores in views.items()
        if key in scores and "id_test" in scores
    }


def _class_name(plan: Plan, label: int) -> str:
    names: Sequence[str] | None = plan.model.class_names or plan.inputs.id_train.class_names
    return "" if label < 0 else str(label) if names is None else names[label]
