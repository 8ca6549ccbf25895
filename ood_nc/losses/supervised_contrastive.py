"""The supervised contrastive loss: features of a class towards each other, away from those of the others."""

from __future__ import annotations

import torch

from ood_nc.errors import UserError
from ood_nc.losses.classes import one_class
from ood_nc.losses.directions import directions
from ood_nc.losses.registry import LOSSES, Batch


def supervised_contrastive(features: torch.Tensor, batch: Batch, *, temperature: float = 0.1) -> torch.Tensor:
    r"""L = mean over anchors i of -1/|P(i)| sum over p in P(i) of log(exp(s_ip) / sum over a != i of exp(s_ia)).

    s is the cosine over the temperature, P(i) the other images of the anchor's class. An image without another of its
    class is no anchor; a batch without any gives 0. The batch is that of one process.

    Args:
        features: (B, d). A row without a direction (of zeros) counts as orthogonal to all and has no gradient.
        batch: its class indices (B,), or class probabilities (B, C), of which the largest is the class.
        temperature: of the similarities.

    Returns:
        The mean over anchors.

    Raises:
        UserError: a temperature that is not positive, or images with several labels.

    Source: Khosla et al., "Supervised Contrastive Learning" (NeurIPS 2020), equation 2 (L_out), one view an image.

    Example:
        >>> import torch
        >>> from ood_nc.losses import Batch
        >>> rows, labels = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 1])
        >>> round(supervised_contrastive(rows, Batch(rows, labels), temperature=1.0).item(), 4)  # log(1 + 1 / e)
        0.3133
    """
    if not temperature > 0:
        raise UserError(f"The temperature of supervised_contrastive must be positive, got {temperature}.")
    with torch.autocast(features.device.type, enabled=False):
        rows = features if features.dtype == torch.float64 else features.float()
        similar = directions(rows) @ directions(rows).T / temperature
        itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        classes = one_class(batch.targets, len(rows)).to(rows.device)
        positive = (classes[:, None] == classes[None]) & ~itself
        log_share = similar - similar.masked_fill(itself, -torch.inf).logsumexp(dim=1, keepdim=True)
        each = -torch.where(positive, log_share, 0.0).sum(dim=1) / positive.sum(dim=1).clamp(min=1)
        anchors = positive.any(dim=1)
        return torch.where(anchors, each, 0.0).sum() / anchors.sum().clamp(min=1)


LOSSES.add("supervised_contrastive", supervised_contrastive)
