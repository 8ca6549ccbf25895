"""Summaries of the tunnel effect: what later layers lose of the transfer that earlier ones offer.

Source: Harun, Lee, Gallardo, Krishnan, Kanan, "What Variables Affect Out-of-Distribution Generalization in Pretrained
Models?", NeurIPS 2024.
"""

from __future__ import annotations

import numpy as np

from ood_nc.arrays import ArrayLike, as_tensor
from ood_nc.errors import UserError


def retained_accuracy(accuracies: ArrayLike) -> float | None:
    """Per cent of the best layer's probe accuracy that the last layer keeps: 100 * last / max.

    Args:
        accuracies: probe accuracy of each layer on one data set, in depth order, (L,).

    Returns:
        In [0, 100]; None where every accuracy is 0.

    Raises:
        UserError: no layer.

    Example:
        >>> from ood_nc.transfer import retained_accuracy
        >>> retained_accuracy([0.5, 0.8, 0.6])
        75.0
    """
    curve = _curve(accuracies, "accuracies")
    best = float(curve.max())
    return 100 * float(curve[-1]) / best if best > 0 else None


def layer_correlation(id_accuracies: ArrayLike, ood_accuracies: ArrayLike) -> float | None:
    """Pearson correlation, over layers, of the probe accuracies on ID data and on an OOD data set.

    Args:
        id_accuracies: (L,), in depth order.
        ood_accuracies: (L,), of the same layers.

    Returns:
        In [-1, 1]; None where it is undefined: fewer than two layers, or a curve that is constant.

    Raises:
        UserError: no layer, or curves of different lengths.

    Example:
        >>> from ood_nc.transfer import layer_correlation
        >>> round(layer_correlation([0.5, 0.7, 0.9], [0.6, 0.5, 0.4]), 3)
        -1.0
    """
    first, second = _curve(id_accuracies, "id_accuracies"), _curve(ood_accuracies, "ood_accuracies")
    if len(first) != len(second):
        raise UserError(f"id_accuracies has {len(first)} layers and ood_accuracies {len(second)}.")
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.clip(np.corrcoef(first, second)[0, 1], -1, 1))


def id_ood_alignment(id_accuracy: float, ood_accuracy: float, *, id_classes: int, ood_classes: int) -> float:
    """(ID accuracy - chance) * (OOD accuracy - chance), chance being 1 / classes: high when a layer serves both.

    Raises:
        UserError: fewer than one class.

    Example:
        >>> from ood_nc.transfer import id_ood_alignment
        >>> round(id_ood_alignment(0.9, 0.6, id_classes=10, ood_classes=5), 3)
        0.32
    """
    if id_classes < 1 or ood_classes < 1:
        raise UserError(f"There must be classes, got {id_classes} ID and {ood_classes} OOD ones.")
    return (id_accuracy - 1 / id_classes) * (ood_accuracy - 1 / ood_classes)


def _curve(accuracies: ArrayLike, name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    values = as_tensor(accuracies, name)
    if values.ndim != 1 or len(values) == 0:
        raise UserError(f"{name} must hold one accuracy a layer, got shape {tuple(values.shape)}.")
    return values.double().cpu().numpy()
