"""The ResNets for 32-pixel images of He et al. (CVPR 2016, section 4.2), registered with timm as `cifar_resnet20` etc.

Three stages of 16, 32 and 64 channels, depth 6n+2, parameter-free shortcuts (option A). Parameter names are those of
the widely used `resnet20-12fca82f.th` family of checkpoints.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models import build_model_with_cfg, register_model
from torch import nn
from torch.nn import functional as F

from ood_nc.models.small import SmallNetwork, untrained_configurations


class PadShortcut(nn.Module):
    """Option A: every second pixel, and zero channels, half on each side.

    Args:
        extra: channels to add.
    """

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.extra = extra

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Return (B, C + extra, H/2, W/2) of maps (B, C, H, W)."""
        half = self.extra // 2
        return F.pad(maps[:, :, ::2, ::2], (0, 0, 0, 0, half, self.extra - half))


class CifarBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Identity() if stride == 1 else PadShortcut(channels - in_channels)
        self.act2 = nn.ReLU(inplace=True)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Return (B, channels, H/stride, W/stride)."""
        inner = self.act1(self.bn1(self.conv1(maps)))
        return self.act2(self.bn2(self.conv2(inner)) + self.shortcut(maps))


class CifarResNet(SmallNetwork):
    """ResNet of depth 6n+2 for small images, with timm's model protocol.

    Args:
        blocks: n, blocks a stage.
        num_classes: 0 for none.
        in_chans: input channels.
        drop_rate: dropout in front of the classifier.
    """

    classifier = "linear"

    def __init__(self, blocks: int, num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.act1 = nn.ReLU(inplace=True)
        self.layer1 = self._stage(16, 16, blocks, 1)
        self.layer2 = self._stage(16, 32, blocks, 2)
        self.layer3 = self._stage(32, 64, blocks, 2)
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.add_head(64, num_classes, drop_rate)
        self.feature_info = [{"module": f"layer{i + 1}", "num_chs": 16 * 2**i, "reduction": 2**i} for i in range(3)]
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
        first = CifarBlock(in_channels, channels, stride)
        return nn.Sequential(first, *[CifarBlock(channels, channels, 1) for _ in range(blocks - 1)])

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's patterns of parameter groups."""
        return {"stem": r"^conv1|bn1", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the last feature map (B, 64, H/4, W/4)."""
        maps = self.act1(self.bn1(self.conv1(images)))
        return self.layer3(self.layer2(self.layer1(maps)))


_DEPTHS = (20, 32, 44, 56)
default_cfgs = untrained_configurations(*[f"cifar_resnet{n}" for n in _DEPTHS], first_conv="conv1", classifier="linear")


def _register(depth: int) -> None:
    def build(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return build_model_with_cfg(CifarResNet, build.__name__, pretrained, **{"blocks": (depth - 2) // 6, **kwargs})

    build.__name__ = f"cifar_resnet{depth}"  # timm's name of it
    register_model(build)


for _depth in _DEPTHS:
    _register(_depth)
