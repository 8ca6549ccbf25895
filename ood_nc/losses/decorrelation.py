"""The correlation between the dimensions of a batch's features, as a loss: each dimension says something of its own."""

from __future__ import annotations

import torch

from ood_nc.errors import UserError
from ood_nc.losses.directions import directions
from ood_nc.losses.registry import LOSSES, Batch


def decorrelation(features: torch.Tensor, batch: Batch) -> torch.Tensor:
    r"""The mean squared correlation of two dimensions of the features over a batch, between 0 and 1.

    .. math::
        L = \frac{1}{d (d - 1)} \sum_{i \ne j} r_{ij}^2

    A dimension that does not vary is correlated with none. It changes with no shift and no scale of a dimension, so a
    network cannot lower it by shrinking them. Everything runs in float32 at least, on the batch of this process.

    Args:
        features: (B, d).
        batch: not read.

    Returns:
        Scalar; 0 for fewer than two images or dimensions.

    Raises:
        UserError: the features are no matrix.

    Source: Cogswell et al., "Reducing Overfitting in Deep Networks by Decorrelating Representations" (ICLR 2016),
    equation 2, of correlations in place of covariances.

    Example:
        >>> import torch
        >>> from ood_nc.losses import Batch
        >>> rows, batch = torch.tensor([[0.0, 1.0], [1.0, 3.0], [2.0, 5.0]]), Batch(torch.zeros(3, 2), torch.arange(3))
        >>> round(decorrelation(rows, batch).item(), 4)
        1.0
    """
    if features.ndim != 2:
        raise UserError(f"decorrelation needs features (B, d), got {tuple(features.shape)}.")
    with torch.autocast(features.device.type, enabled=False):
        rows = features if features.dtype == torch.float64 else features.float()
        unit = directions((rows - rows.mean(dim=0)).T)
        squared = (unit @ unit.T).square()
        others = squared.sum() - squared.diagonal().sum()
        return others / max(1, len(unit) * (len(unit) - 1))


LOSSES.add("decorrelation", decorrelation)
