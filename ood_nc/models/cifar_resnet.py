"""The ResNets for 32-pixel images of He et al. (CVPR 2016, section 4.2), registered with timm as `cifar_resnet20` etc.

Three stages of 16, 32 and 64 channels, depth 6n+2, parameter-free shortcuts (option A). Parameter names are those of
the widely used `resnet20-12fca82f.th` family of checkpoints.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn
from torch.nn import functional as F


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


class CifarResNet(nn.Module):
    """ResNet of depth 6n+2 for small images, with timm's model protocol.

    Args:
        blocks: n, blocks a stage.
        num_classes: 0 for none.
        in_chans: input channels.
        drop_rate: dropout in front of the classifier.
    """

    def __init__(self, blocks: int, num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.num_classes, self.drop_rate = num_classes, drop_rate
        self.num_features = self.head_hidden_size = 64
        self.conv1 = nn.Conv2d(in_chans, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.act1 = nn.ReLU(inplace=True)
        self.layer1 = self._stage(16, 16, blocks, 1)
        self.layer2 = self._stage(16, 32, blocks, 2)
        self.layer3 = self._stage(32, 64, blocks, 2)
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head_drop = nn.Dropout(drop_rate)
        self.linear = nn.Linear(64, num_classes) if num_classes > 0 else nn.Identity()
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

    def get_classifier(self) -> nn.Module:
        """Return the linear classifier."""
        return self.linear

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier, keeping device and dtype; ``global_pool`` other than avg does not exist here."""
        reference = self.conv1.weight
        self.num_classes, self.linear = num_classes, nn.Identity()
        if num_classes > 0:
            self.linear = nn.Linear(64, num_classes, device=reference.device, dtype=reference.dtype)

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the last feature map (B, 64, H/4, W/4)."""
        maps = self.act1(self.bn1(self.conv1(images)))
        return self.layer3(self.layer2(self.layer1(maps)))

    def forward_head(self, maps: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Return the logits, or the pooled features (B, 64)."""
        features = self.head_drop(self.flatten(self.global_pool(maps)))
        return features if pre_logits else self.linear(features)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return self.forward_head(self.forward_features(images))


default_cfgs = generate_default_cfgs(
    {
        f"cifar_resnet{depth}.untrained": {
            "input_size": (3, 32, 32),
            "num_classes": 10,
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "first_conv": "conv1",
            "classifier": "linear",
        }
        for depth in (20, 32, 44, 56)
    }
)


def _build(depth: int, pretrained: bool, **kwargs: Any) -> nn.Module:
    arguments = {"blocks": (depth - 2) // 6, **kwargs}
    return build_model_with_cfg(CifarResNet, f"cifar_resnet{depth}", pretrained, **arguments)


@register_model
def cifar_resnet20(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-20 for 32-pixel images, 0.27 M parameters."""
    return _build(20, pretrained, **kwargs)


@register_model
def cifar_resnet32(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-32 for 32-pixel images, 0.46 M parameters."""
    return _build(32, pretrained, **kwargs)


@register_model
def cifar_resnet44(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-44 for 32-pixel images, 0.66 M parameters."""
    return _build(44, pretrained, **kwargs)


@register_model
def cifar_resnet56(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-56 for 32-pixel images, 0.85 M parameters."""
    return _build(56, pretrained, **kwargs)
