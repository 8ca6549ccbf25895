"""iODIN: ODIN whose step moves the most sensitive value of the image alone."""

from __future__ import annotations

import torch
from torch import Tensor

from ood_nc.detection import DetectorInfo, register_detector
from ood_nc.detection.detectors.odin import ODIN


@register_detector
class IODIN(ODIN):
    """ODIN whose step moves one value, one channel of one pixel: the one with the largest absolute gradient.

    As in the authors' code; the score is otherwise that of ODIN. Source: Regmi, 2024 (ASCOOD).

    Args:
        temperature: T.
        epsilon: size of the step, in the units of the network's input, or of the raw image where ``std`` is given.
        std: the standard deviation the channels were divided by, one for all or one each.
    """

    name = "iodin"
    info = DetectorInfo(
        title="Going Beyond Conventional OOD Detection",
        venue="arXiv 2024",
        url="https://arxiv.org/abs/2411.10794",
        needs="images and a network with gradients",
        domain="[1/C, 1]",
        cost="fit none; score two forward passes and one backward",
    )

    def _select(self, gradient: Tensor) -> Tensor:
        rows = gradient.flatten(1)
        largest = rows.abs().argmax(dim=1, keepdim=True)
        return torch.zeros_like(rows).scatter_(1, largest, rows.gather(1, largest)).view_as(gradient)
