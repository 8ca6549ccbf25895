"""Calibration of the head on held-out ID: as it is, and at the temperature that ID images outside the fits choose."""

from __future__ import annotations

from typing import Any

import torch

from ood_nc.detection.detectors.temperature import best_temperature
from ood_nc.evaluation.results import MakeRow, Row
from ood_nc.evaluation.taps import TapData, labelled
from ood_nc.scores import calibration_error

CHOSEN_ON = "held-out ID"

_NAN = "the head's logits of an image are NaN or infinite"


def calibration_rows(tap: TapData, make: MakeRow) -> list[Row]:
    """``ece`` of the head's softmax, its ``temperature`` and ``ece_at_temperature``; undefined where logits are NaN.

    Args:
        tap: the one that the head reads.
        make: makes a row of this tap.
    """
    if not tap.own_logits or not labelled(tap.labels["id_test"]):
        return []
    where = {"dataset": "id_test", "group": "id", "method": "head"}
    logits, labels = tap.own_logits["id_test"].double(), tap.labels["id_test"]
    rows = [make(**where, metric="ece", n=len(labels), **_error(logits, labels))]
    if "id_val" in tap.own_logits and labelled(tap.labels["id_val"]):
        n, held_out = len(tap.labels["id_val"]), tap.own_logits["id_val"].double()
        finite = bool(held_out.isfinite().all())
        temperature = best_temperature(held_out, tap.labels["id_val"]) if finite else None
        where["selected_on"] = CHOSEN_ON
        rows.append(make(**where, metric="temperature", value=temperature, reason=_NAN, n=n))
        error = _error(logits / (temperature or torch.nan), labels)
        rows.append(make(**where, metric="ece_at_temperature", n=len(labels), **error))
    return rows


def _error(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """The calibration error, or why there is none."""
    confidences, predicted = logits.softmax(dim=1).max(dim=1)
    if confidences.isnan().any():
        return {"value": None, "reason": _NAN}
    return {"value": calibration_error(confidences, predicted == labels)}
