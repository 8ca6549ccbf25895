"""Losses of images that have any number of labels: pick-all-label, and the usual ones per label."""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
import torch.nn.functional as F

from ood_nc.errors import UserError
from ood_nc.losses.registry import LOSSES, Batch, LossFunction

_LONGEST = 1e15


def pick_all_label(
    logits: torch.Tensor, label_sets: torch.Tensor, *, variant: Literal["sum", "mean"] = "sum"
) -> torch.Tensor:
    r"""Cross-entropy of every label that an image has: L(z, S) = sum over k in S of CE(z, k).

    It ignores a shift that all logits of an image share.

    Args:
        logits: (B, K).
        label_sets: (B, K), 1 where the image has the label, else 0; each image at least one.
        variant: ``sum``, or ``mean``: divided by the number of labels, which is the cross-entropy against 1_S / |S|.

    Returns:
        The mean over images.

    Raises:
        UserError: an unknown variant, or an image without a label.

    Source: Li, Li, Wang, Qu, "Neural Collapse in Multi-label Learning with Pick-all-label Loss" (ICML 2024).

    Example:
        >>> import torch
        >>> sets = torch.tensor([[1.0, 1.0, 0.0]])
        >>> [round(pick_all_label(torch.zeros(1, 3), sets, variant=v).item(), 3) for v in ("sum", "mean")]
        [2.197, 1.099]
    """
    if variant not in ("sum", "mean"):
        raise UserError(f"variant must be 'sum' or 'mean', got {variant!r}.")
    sets = _checked(logits, label_sets)
    per_image = -(sets * F.log_softmax(logits, dim=1)).sum(dim=1)
    return (per_image / sets.sum(dim=1) if variant == "mean" else per_image).mean()


def focal(logits: torch.Tensor, label_sets: torch.Tensor, *, gamma: float = 2.0) -> torch.Tensor:
    """Binary cross-entropy of each label times (1 - p of what is true)^gamma; mean over images, sum over labels.

    Source: Lin, Goyal, Girshick, He, Dollar, "Focal Loss for Dense Object Detection" (ICCV 2017), without its alpha.

    Example:
        >>> import torch
        >>> round(focal(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])).item(), 4)  # 2 * 0.25 * log 2
        0.3466
    """
    return asymmetric(logits, label_sets, gamma_positive=gamma, gamma_negative=gamma, margin=0.0)


def asymmetric(
    logits: torch.Tensor,
    label_sets: torch.Tensor,
    *,
    gamma_positive: float = 0.0,
    gamma_negative: float = 4.0,
    margin: float = 0.05,
) -> torch.Tensor:
    """Focal loss with another exponent for labels that are absent, whose probability is lowered by a margin first.

    Args:
        logits: (B, K), of sigmoids.
        label_sets: (B, K) of 0 and 1.
        gamma_positive: exponent of labels that are there.
        gamma_negative: exponent of those that are not.
        margin: what is taken off the probability of an absent label, down to 0.

    Returns:
        Mean over images of the sum over labels.

    Raises:
        UserError: an exponent below 0, or a margin outside of [0, 1).

    Source: Ridnik et al., "Asymmetric Loss for Multi-Label Classification" (ICCV 2021), equations 4 to 7.

    Example:
        >>> import torch
        >>> asymmetric(torch.tensor([[-4.0]]), torch.tensor([[0.0]])).item() == 0  # p is below the margin
        True
    """
    if not min(gamma_positive, gamma_negative) >= 0 or not 0 <= margin < 1:
        given = f"{gamma_positive:g}, {gamma_negative:g} and {margin:g}"
        raise UserError(f"The exponents must be at least 0, and the margin in [0, 1), got {given}.")
    sets = _checked(logits, label_sets, empty=True)
    there, absent = torch.sigmoid(logits), torch.sigmoid(-logits)
    lowered = (there - margin).clamp(min=0)
    positive = sets * _power(absent, gamma_positive) * F.logsigmoid(logits)
    rest = F.logsigmoid(-logits) if margin == 0 else torch.log1p(-lowered)
    negative = (1 - sets) * _power(lowered, gamma_negative) * rest
    return -(positive + negative).sum(dim=1).mean()


def _power(shares: torch.Tensor, gamma: float) -> torch.Tensor:
    """Shares to the power of gamma; at 0, where the slope of a root has no end, without a gradient."""
    above = shares > 0
    return torch.where(above, torch.where(above, shares, 1.0).pow(gamma), float(gamma == 0))


def _checked(logits: torch.Tensor, label_sets: torch.Tensor, *, empty: bool = False) -> torch.Tensor:
    if label_sets.shape != logits.shape or logits.ndim != 2:
        raise UserError(f"label sets of shape {tuple(label_sets.shape)} do not fit logits {tuple(logits.shape)}.")
    if not torch.compiler.is_compiling() and not empty and bool((label_sets.sum(dim=1) <= 0).any()):
        raise UserError("An image has no label: pick-all-label needs one at least.")
    return label_sets.to(logits.dtype)


def _sets(batch: Batch) -> torch.Tensor:
    """The label sets of a batch; class indices are sets of one."""
    if batch.targets.is_floating_point():
        return batch.targets
    return F.one_hot(batch.targets.long(), batch.logits.shape[1]).to(batch.logits.dtype)


def _wide(batch: Batch) -> torch.Tensor:
    return batch.logits if batch.logits.dtype == torch.float64 else batch.logits.float()


def _as_term(loss: LossFunction) -> LossFunction:
    """A loss of logits and label sets as a term of an objective; the tap is not read."""

    @functools.wraps(loss)
    def term(features: torch.Tensor, batch: Batch, **kwargs: Any) -> torch.Tensor:
        return loss(_wide(batch), _sets(batch), **kwargs)

    return term


def _binary_cross_entropy(features: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Binary cross-entropy of every label: sum over labels, mean over images; the tap is not read."""
    logits, sets = _wide(batch), _sets(batch)
    return F.binary_cross_entropy_with_logits(logits, sets.to(logits.dtype), reduction="none").sum(dim=1).mean()


def feature_norm(features: torch.Tensor, batch: Batch) -> torch.Tensor:
    """|H|_F^2 / B: the mean squared length of the features, what weight decay is to features that are parameters.

    A value beyond 1e15, whose square would leave float32, counts as that and gives no gradient.

    Source: the feature penalty of the unconstrained features model (Zhu et al., NeurIPS 2021; Li et al., ICML 2024).

    Example:
        >>> import torch
        >>> from ood_nc.losses import Batch
        >>> rows = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
        >>> feature_norm(rows, Batch(logits=rows, targets=torch.tensor([0, 1]))).item()
        13.0
    """
    wide = features if features.dtype == torch.float64 else features.float()
    return wide.clamp(-_LONGEST, _LONGEST).square().sum(dim=1).mean()


LOSSES.add("pick_all_label", _as_term(pick_all_label))
LOSSES.add("binary_cross_entropy", _binary_cross_entropy)
LOSSES.add("focal", _as_term(focal))
LOSSES.add("asymmetric", _as_term(asymmetric))
LOSSES.add("feature_norm", feature_norm)
