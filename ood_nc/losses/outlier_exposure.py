"""Outlier exposure: the network learns to be undecided on outliers that it is shown."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ood_nc.errors import UserError
from ood_nc.losses.registry import LOSSES, Batch


def outlier_exposure(features: torch.Tensor, batch: Batch) -> torch.Tensor:
    r"""Cross-entropy of outliers' class probabilities to the uniform distribution. The tap is not read.

    .. math::
        L = -\frac{1}{M C} \sum_{j=1}^{M} \sum_{c=1}^{C} \log \operatorname{softmax}(z_j)_c

    It is added to the task loss, as published with weight 0.5. The outliers come from ``data.outliers``.

    Args:
        features: of any tap.
        batch: with the outliers' logits (M, C).

    Returns:
        The mean over outliers, at least log C; 0 for none.

    Raises:
        UserError: the batch has no outliers.

    Source: Hendrycks, Mazeika, Dietterich, "Deep Anomaly Detection with Outlier Exposure" (ICLR 2019), section 3.

    Example:
        >>> import torch
        >>> from ood_nc.losses import Batch
        >>> batch = Batch(torch.zeros(1, 2), torch.tensor([0]), outliers=torch.zeros(3, 2))
        >>> round(outlier_exposure(torch.zeros(1, 4), batch).item(), 4)  # log 2
        0.6931
    """
    if batch.outliers is None:
        raise UserError("outlier_exposure needs outliers to learn from: name their source, data.outliers.")
    outliers = batch.outliers if batch.outliers.dtype == torch.float64 else batch.outliers.float()
    return -F.log_softmax(outliers, dim=1).sum() / max(1, outliers.numel())


LOSSES.add("outlier_exposure", outlier_exposure)
