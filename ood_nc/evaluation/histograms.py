"""Histograms of one detector's scores on every set, over shared edges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 60
TAIL = 0.005


def histograms(tap: str, detector: str, scores: Mapping[str, NDArray[np.float64]]) -> list[dict[str, Any]]:
    """Count the scores of every set in the same bins.

    The bins reach from the lowest 0.5 % point of any set to the highest 99.5 % point, so that a few far scores do not
    squeeze the rest into one bin; what lies beyond is counted in the outermost bins.

    Args:
        tap: its name.
        detector: its name.
        scores: by set key.

    Returns:
        A dictionary a set: ``tap, detector, dataset, edges`` (61), ``counts`` (60).
    """
    finite = {key: values[np.isfinite(values)] for key, values in scores.items()}
    finite = {key: values for key, values in finite.items() if len(values)}
    if not finite:
        return []
    low = min(float(np.quantile(values, TAIL)) for values in finite.values())
    high = max(float(np.quantile(values, 1 - TAIL)) for values in finite.values())
    if not high > low:
        # One value alone: a bin around it.
        low, high = low - 0.5 * max(abs(low), 1.0), high + 0.5 * max(abs(high), 1.0)
    edges = np.linspace(low, high, BINS + 1)
    return [
        {
            "tap": tap,
            "detector": detector,
            "dataset": key.removeprefix("ood/"),
            "edges": edges.tolist(),
            "counts": np.histogram(np.clip(scores[key], low, high), bins=edges)[0].tolist(),
        }
        for key in finite
    ]
