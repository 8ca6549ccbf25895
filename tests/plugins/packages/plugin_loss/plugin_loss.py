"""A loss: how far the features of a batch are spread."""

from __future__ import annotations


def spread(features, batch, *, sharpness=1.0):
    """Minus the mean squared deviation from the batch's mean, saturating at 1 / sharpness."""
    rows = features.double()
    deviations = (rows - rows.mean(dim=0)).square().mean(dim=1)
    return -(deviations / (1 + sharpness * deviations)).mean()
