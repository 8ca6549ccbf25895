"""A threshold for each label, with a guarantee of how often it misses the label."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ood_nc.errors import UserError


def label_thresholds(logits: Tensor, label_sets: Tensor, miss_rate: float = 0.1) -> Tensor:
    r"""The highest threshold of each label that misses it, on a new image that has it, at most so often.

    Split conformal prediction within each label: of the n held-out images with label k, the j-th smallest logit with
    j = floor(alpha (n + 1)). P(z_k < t_k | k in S) is at most alpha, over the draw of held-out and new images, if those
    with the label are exchangeable; it says nothing of images of another kind, nor of labels that are absent.

    Args:
        logits: of held-out images (N, K).
        label_sets: theirs (N, K), of 0 and 1.
        miss_rate: alpha, in (0, 1).

    Returns:
        (K,); minus infinity where a label has fewer than 1/alpha - 1 images, so that none is missed.

    Raises:
        UserError: alpha outside (0, 1), or shapes that do not fit.

    Source: Vovk, "Conditional validity of inductive conformal predictors" (2012), label-conditional.

    Example:
        >>> import torch
        >>> logits = torch.arange(9.0)[:, None].repeat(1, 2)
        >>> label_thresholds(logits, torch.tensor([[1, 0]] * 9), miss_rate=0.2).tolist()
        [1.0, -inf]
    """
    if not 0 < miss_rate < 1:
        raise UserError(f"miss_rate must lie between 0 and 1, got {miss_rate}.")
    if logits.shape != label_sets.shape or logits.ndim != 2:
        raise UserError(f"label sets of shape {tuple(label_sets.shape)} do not fit logits {tuple(logits.shape)}.")
    found = torch.full((logits.shape[1],), -torch.inf, dtype=logits.dtype)
    for k in range(logits.shape[1]):
        own = logits[label_sets[:, k] == 1, k].sort().values
        rank = math.floor(miss_rate * (len(own) + 1) + 1e-9)
        if rank >= 1:
            found[k] = own[rank - 1]
    return found
