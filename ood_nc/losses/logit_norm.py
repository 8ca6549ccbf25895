"""LogitNorm: cross-entropy of logits of one length."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ood_nc.errors import UserError
from ood_nc.losses.registry import LOSSES, Batch

EPS = 1e-7


def logit_norm(features: torch.Tensor, batch: Batch, *, temperature: float = 0.04) -> torch.Tensor:
    r"""Cross-entropy of z / (T |z|): a network cannot lower it by making its logits longer. The tap is not read.

    It takes the place of the task loss (``loss.task: none``), without label smoothing as published.

    Args:
        features: of any tap.
        batch: its logits (B, C), and class indices (B,) or class probabilities (B, C).
        temperature: T.

    Returns:
        The mean over images.

    Raises:
        UserError: a temperature that is not positive.

    Source: Wei et al., "Mitigating Neural Network Overconfidence with Logit Normalization" (ICML 2022), equation 6.

    Example:
        >>> import torch
        >>> from ood_nc.losses import Batch
        >>> short, long = (Batch(torch.tensor([[size, 0.0]]), torch.tensor([0])) for size in (1.0, 100.0))
        >>> [round(logit_norm(torch.zeros(1, 2), one, temperature=1.0).item(), 4) for one in (short, long)]
        [0.3133, 0.3133]
    """
    if not temperature > 0:
        raise UserError(f"The temperature of logit_norm must be positive, got {temperature}.")
    logits = batch.logits if batch.logits.dtype == torch.float64 else batch.logits.float()
    soft = batch.targets.is_floating_point()
    targets = batch.targets.to(logits.dtype) if soft else batch.targets.long()
    return F.cross_entropy(logits / (logits.norm(dim=1, keepdim=True) + EPS) / temperature, targets)


LOSSES.add("logit_norm", logit_norm)
