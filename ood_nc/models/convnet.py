"""Plain convolutional networks, registered with timm: 3x3 convolutions in a row, with batch norm.

They have no shortcut, so that depth is one line: what a layer keeps is what every later one can use. `convnet6` is
small enough to be trained to the end of its training error on one thread; `convnet20` is that of Rangamani et al. (ICML
2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.models import build_model_with_cfg, register_model
from torch import nn

from ood_nc.models.small import SmallNetwork, untrained_configurations

SIX = ((32, 2), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1))
"""Channels and stride of each convolution of `convnet6`."""


class ConvBlock(nn.Module):
    """A 3x3 convolution without bias, batch norm, ReLU."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.ReLU(inplace=True)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Return (B, channels, H/stride, W/stride)."""
        return self.act(self.norm(self.conv(maps)))


class ConvNet(SmallNetwork):
    """Convolutions in a row, average pooling and a linear classifier, with timm's model protocol.

    Args:
        num_classes: 0 for none.
        in_chans: input channels.
        drop_rate: dropout in front of the classifier.
        layers: channels and stride of each convolution.
    """

    def __init__(
        self, num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.0, layers: Sequence[tuple[int, int]] = SIX
    ) -> None:
        super().__init__()
        self.depth, self.feature_info = len(layers), []
        channels, reduction = in_chans, 1
        for index, (width, stride) in enumerate(layers, start=1):
            self.add_module(f"block{index}", ConvBlock(channels, width, stride))
            channels, reduction = width, reduction * stride
            if index == len(layers) or layers[index][1] > 1:
                self.feature_info.append({"module": f"block{index}", "num_chs": width, "reduction": reduction})
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.add_head(channels, num_classes, drop_rate)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's patterns of parameter groups."""
        return {"stem": r"^block1\.", "blocks": r"^block(\d+)"}

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the last feature map (B, 128, H/8, W/8)."""
        maps = images
        for index in range(1, self.depth + 1):
            maps = self.get_submodule(f"block{index}")(maps)
        return maps


default_cfgs = untrained_configurations("convnet6", "convnet20", first_conv="block1.conv")


@register_model
def convnet6(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Six convolutions for 32-pixel images, d = 128, 0.29 M parameters."""
    return build_model_with_cfg(ConvNet, "convnet6", pretrained, **kwargs)


@register_model
def convnet20(pretrained: bool = False, depth: int = 20, width: int = 128, **kwargs: Any) -> nn.Module:
    """Convolutions of one width, the first two with stride 2 (Rangamani et al., ICML 2023: 20 of 128 channels)."""
    layers = [(width, 2)] * 2 + [(width, 1)] * (depth - 2)
    return build_model_with_cfg(ConvNet, "convnet20", pretrained, layers=layers, **kwargs)
