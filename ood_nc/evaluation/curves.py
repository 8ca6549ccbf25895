"""ROC curves of one detector's scores on every OOD set, thinned to what a figure shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

POINTS = 51


def roc_curves(tap: str, detector: str, scores: Mapping[str, NDArray[np.float64]]) -> list[dict[str, Any]]:
    """The share of OOD images that is accepted where at least a given share of held-out ID images is.

    Args:
        tap: its name.
        detector: its name.
        scores: by set key, larger = more in-distribution.

    Returns:
        A dictionary an OOD set: ``tap, detector, dataset, id_accepted`` (`POINTS` shares from 0 to 1),
        ``ood_accepted``. None where a score is NaN.
    """
    inside = scores.get("id_test", np.empty(0))
    if not len(inside) or np.isnan(inside).any():
        return []
    shares = np.linspace(0, 1, POINTS)
    wanted = np.ceil(shares[1:] * len(inside) - 1e-9).astype(int)
    thresholds = np.sort(inside)[::-1][wanted - 1]
    curves = []
    for key, outside in scores.items():
        if key == "id_test" or not len(outside) or np.isnan(outside).any():
            continue
        accepted = 1 - np.searchsorted(np.sort(outside), thresholds, side="left") / len(outside)
        found = {"tap": tap, "detector": detector, "dataset": key.removeprefix("ood/")}
        curves.append({**found, "id_accepted": shares.tolist(), "ood_accepted": [0.0, *accepted.round(6).tolist()]})
    return curves
