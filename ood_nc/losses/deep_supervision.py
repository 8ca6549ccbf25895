"""Deep supervision: earlier layers answer for the classes too."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ood_nc.errors import UserError
from ood_nc.losses.registry import LOSSES, Batch


def deep_supervision(features: torch.Tensor, batch: Batch) -> torch.Tensor:
    r"""Cross-entropy of a linear classifier on a tap, which learns with the network (``model.auxiliary`` makes it).

    Args:
        features: (B, d) of an earlier tap.
        batch: with the weight (C, d) and the bias (C,) of that tap's classifier, and class indices (B,) or class
            probabilities (B, C).

    Returns:
        The mean over images.

    Raises:
        UserError: the tap has no classifier.

    Source: Lee et al., "Deeply-Supervised Nets" (AISTATS 2015), equation 3, with softmax in place of the squared hinge.

    Example:
        >>> import torch
        >>> from ood_nc.losses import Batch
        >>> batch = Batch(torch.zeros(1, 2), torch.tensor([0]), head=(torch.eye(2), torch.zeros(2)))
        >>> round(deep_supervision(torch.tensor([[1.0, 0.0]]), batch).item(), 4)
        0.3133
    """
    if batch.head is None:
        raise UserError("deep_supervision needs a linear classifier on its tap: name the tap in model.auxiliary.")
    with torch.autocast(features.device.type, enabled=False):
        wide = torch.float64 if features.dtype == torch.float64 else torch.float32
        weight, bias = batch.head
        logits = F.linear(features.to(wide), weight.to(wide), None if bias is None else bias.to(wide))
        targets = batch.targets.to(wide) if batch.targets.is_floating_point() else batch.targets.long()
        return F.cross_entropy(logits, targets)


LOSSES.add("deep_supervision", deep_supervision)
