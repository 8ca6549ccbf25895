"""The within-class share of a batch's variance, as a loss: it draws the samples of a class together."""

from __future__ import annotations

import torch

from ood_nc.arrays import ArrayLike, as_matrix
from ood_nc.errors import UserError
from ood_nc.losses.classes import one_class
from ood_nc.losses.registry import LOSSES, Batch


def within_class_share(features: ArrayLike, targets: ArrayLike, *, floor: float = 1e-6) -> torch.Tensor:
    r"""The logarithm of the share of a batch's variance that lies within its classes: the smaller, the more collapsed.

    .. math::
        L = \log \left( \epsilon + \frac{\sum_i |e_i - \mu_{y_i}|^2}{\sum_i |e_i - \mu|^2} \right)

    with the means of the batch itself. It changes with no shift, scale or rotation of the features, so a network cannot
    lower it by shrinking them, and its gradient stays of one size while the share falls over decades. The counterpart
    of `nearest_neighbor_entropy`, which draws samples apart. Everything runs in float32 at least, on the batch of this
    process.

    Args:
        features: (B, d).
        targets: class indices (B,), or class probabilities (B, C), of which the heaviest counts.
        floor: the share below which the gradient fades.

    Returns:
        Scalar, float64 for float64 features, else float32; 0 where no two samples share a class.

    Raises:
        UserError: shapes that do not fit, or images with several labels.

    Source: the trace form of NC1, tr Sigma_W / tr Sigma_T (Rangamani et al., ICML 2023), of a batch.

    Example:
        >>> import torch
        >>> rows = torch.tensor([[0.0], [2.0], [5.0], [7.0]])
        >>> round(within_class_share(rows, torch.tensor([0, 0, 1, 1])).exp().item(), 3)  # 4 / 29
        0.138
    """
    matrix = as_matrix(features)
    rows = features if isinstance(features, torch.Tensor) and features.is_floating_point() else matrix
    labels = one_class(targets, len(rows)).to(rows.device)
    if floor <= 0:
        raise UserError(f"floor must be greater than 0, got {floor}.")
    with torch.autocast(rows.device.type, enabled=False):
        rows = rows if rows.dtype == torch.float64 else rows.float()
        classes, index = labels.unique(return_inverse=True)
        if len(classes) == len(rows):
            return rows[:0].sum()  # zero, and still part of the graph
        centered = _in_range(rows - rows.mean(dim=0))
        sums = torch.zeros(len(classes), rows.shape[1], dtype=rows.dtype, device=rows.device).index_add(
            0, index, centered
        )
        means = sums / torch.bincount(index)[:, None]
        total = centered.square().sum().clamp_min(0.1)  # the largest entry is 0.5 at least, or all are 0
        return torch.log((centered - means[index]).square().sum() / total + floor)


def _in_range(rows: torch.Tensor) -> torch.Tensor:
    """Rows times a power of two, for a value that no scale changes: their squares stay within the dtype."""
    largest = rows.detach().abs().amax()
    limit = 1000 if rows.dtype == torch.float64 else 120
    return torch.ldexp(rows, -torch.frexp(largest)[1].clamp(-limit, limit))


def _term(features: torch.Tensor, batch: Batch, *, floor: float = 1e-6) -> torch.Tensor:
    """The log share of a batch's variance within its classes: draws the samples of a class together."""
    return within_class_share(features, batch.targets, floor=floor)


LOSSES.add("within_class", _term)
