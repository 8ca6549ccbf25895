"""NC1 of a batch, as a loss: the collapse itself, with a gradient."""

from __future__ import annotations

import torch

from ood_nc.arrays import ArrayLike, as_matrix
from ood_nc.errors import UserError
from ood_nc.losses.classes import one_class
from ood_nc.losses.registry import LOSSES, Batch

_MOST = 0.9
"""The share of what a batch without classes has, above which the value is no longer corrected more."""


def log_nc1(features: ArrayLike, targets: ArrayLike, *, ridge: float = 1e-3) -> torch.Tensor:
    r"""The logarithm of NC1, tr(Sigma_W Sigma_B^+) / C, as a batch tells it: the smaller, the more collapsed.

    With the centred class means M of the batch, x_i the deviations from them, N samples and C classes there:

    .. math::
        v = \frac{1}{N - C} \sum_i \left| (M M^T + \lambda)^{-1} M x_i \right|^2, \qquad
        L = \log v - \log \left( 1 - \frac{v C^2}{(C - 1) N} \right)

    Means of N / C samples are apart even where the classes are one: v is then (C - 1) N / C^2 (d N / C^2 where d is the
    smaller). The second part of L takes out that noise; v counts for 0.9 of it there at most. Everything runs in
    float32 at least, on the batch of this process. What a batch of n images a class says is too high, the more so where
    NC1 is large: with four classes by 11 % at NC1 0.75 and n = 12.

    Args:
        features: (B, d).
        targets: class indices (B,), or class probabilities (B, C), of which the heaviest counts.
        ridge: lambda, as share of the mean square length of M's rows.

    Returns:
        Scalar, float64 for float64 features, else float32; 0 where there are not two classes and two samples of one.

    Raises:
        UserError: shapes that do not fit, images with several labels, or a ridge that is not positive.

    Source: Papyan, Han, Donoho (PNAS 2020) for NC1.

    Example:
        >>> import torch
        >>> rows = torch.tensor([[0.0], [2.0], [5.0], [7.0]])
        >>> round(log_nc1(rows, torch.tensor([0, 0, 1, 1]), ridge=1e-9).exp().item(), 3)  # v = 0.16
        0.19
    """
    matrix = as_matrix(features)
    rows = features if isinstance(features, torch.Tensor) and features.is_floating_point() else matrix
    labels = one_class(targets, len(rows)).to(rows.device)
    if not ridge > 0:
        raise UserError(f"ridge must be greater than 0, got {ridge}.")
    with torch.autocast(rows.device.type, enabled=False):
        rows = rows if rows.dtype == torch.float64 else rows.float()
        present, index = labels.unique(return_inverse=True)
        classes, size = len(present), len(rows)
        if classes < 2 or classes == size:
            return rows[:0].sum()  # zero, and still part of the graph
        centered = rows - rows.mean(dim=0)
        centered = centered / centered.detach().abs().amax().clamp_min(torch.finfo(rows.dtype).tiny)
        sums = torch.zeros(classes, rows.shape[1], dtype=rows.dtype, device=rows.device).index_add(0, index, centered)
        means = sums / torch.bincount(index)[:, None]
        deviations = centered - means[index]
        means = means - means.mean(dim=0)
        gram = means @ means.T
        length = gram.detach().diagonal().mean().clamp_min(1e-12)
        # Any multiple of 1 1' may be added: the rows of M x_i add up to nothing.
        shift = length * (ridge * torch.eye(classes, dtype=rows.dtype, device=rows.device) + 1 / classes)
        value = torch.linalg.solve(gram + shift, means @ deviations.T).square().sum() / (size - classes) + 1e-12
        largest = min(classes - 1, rows.shape[1]) * size / classes**2
        return torch.log(value) - torch.log1p(-(value / largest).clamp(max=_MOST))


def _term(features: torch.Tensor, batch: Batch, *, ridge: float = 1e-3) -> torch.Tensor:
    """The logarithm of the batch's NC1: draws the samples of a class together, and classes apart that are close."""
    return log_nc1(features, batch.targets, ridge=ridge)


LOSSES.add("nc1", _term)
