"""T2FNorm: cross-entropy of the head on features of one length, while training only."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ood_nc.errors import UserError
from ood_nc.losses.directions import directions
from ood_nc.losses.registry import LOSSES, Batch


def t2fnorm(features: torch.Tensor, batch: Batch, *, temperature: float = 0.1) -> torch.Tensor:
    r"""Cross-entropy of W h / (T |h|) + b, where the network itself keeps W h + b: its scores see the length of h.

    It takes the place of the task loss (``loss.task: none``), on the tap that the head reads, which must not be
    normalised already; without label smoothing as published.

    Args:
        features: h (B, d), what the head reads.
        batch: its head, and class indices (B,) or class probabilities (B, C).
        temperature: T.

    Returns:
        The mean over images.

    Raises:
        UserError: a temperature that is not positive, no head, or one of another width.

    Source: Regmi et al., "T2FNorm: Train-time Feature Normalization for OOD Detection in Image Classification" (CVPR
    workshops 2024), section 3.

    Example:
        >>> import torch
        >>> from ood_nc.losses import Batch
        >>> batch = Batch(torch.zeros(1, 2), torch.tensor([0]), head=(torch.eye(2), None))
        >>> [round(t2fnorm(torch.tensor([[size, 0.0]]), batch, temperature=1.0).item(), 4) for size in (1.0, 100.0)]
        [0.3133, 0.3133]
    """
    if not temperature > 0:
        raise UserError(f"The temperature of t2fnorm must be positive, got {temperature}.")
    weight, bias = batch.head or (None, None)
    if weight is None or weight.shape[1] != features.shape[1]:
        raise UserError("t2fnorm needs the tap that a linear head reads: encoder without a projector, else projector.")
    with torch.autocast(features.device.type, enabled=False):
        wide = torch.float64 if features.dtype == torch.float64 else torch.float32
        logits = F.linear(
            directions(features.to(wide)) / temperature, weight.to(wide), None if bias is None else bias.to(wide)
        )
        targets = batch.targets.to(wide) if batch.targets.is_floating_point() else batch.targets.long()
        return F.cross_entropy(logits, targets)


LOSSES.add("t2fnorm", t2fnorm)
