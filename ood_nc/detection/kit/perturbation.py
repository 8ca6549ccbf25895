"""The step that ODIN and its relatives take in the space of images."""

from __future__ import annotations

import torch
from torch import Tensor

from ood_nc.errors import UserError


def step_against(
    images: Tensor, gradient: Tensor, epsilon: float, std: float | tuple[float, ...] | None = None
) -> Tensor:
    """Images minus ``epsilon`` times the sign of the gradient, over the channels' std where given.

    Args:
        images: (B, C, ...).
        gradient: of a loss, same shape; where it is zero nothing moves.
        epsilon: size of the step.
        std: one number, or one for each of the C channels.

    Raises:
        UserError: ``std`` has another number of channels.

    Example:
        >>> step_against(torch.tensor([[0.5, 0.5]]), torch.tensor([[-3.0, 0.0]]), 0.1)
        tensor([[0.6000, 0.5000]])
    """
    step = epsilon * gradient.sign()
    if std is not None:
        scale = torch.as_tensor(std, dtype=images.dtype, device=images.device).reshape(-1)
        if len(scale) not in (1, images.shape[1]):
            raise UserError(f"std has {len(scale)} channels, the images have {images.shape[1]}.")
        step = step / scale.reshape(1, -1, *[1] * (images.ndim - 2))
    return images - step
