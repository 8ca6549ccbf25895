"""The paper's ViTs, registered with timm.

No class token, mean over tokens after the last norm, fixed sin-cos positions: timm's own arguments give the first two
(`class_token=False, global_pool="avg", fc_norm=False`), not the third.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models import build_model_with_cfg, register_model
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from ood_nc.models.small import untrained_configurations


def sincos_positions(height: int, width: int, dim: int, temperature: float = 10000.0) -> torch.Tensor:
    """Return fixed two-dimensional positions (height * width, dim), float32.

    A quarter of the coordinates each: sin and cos of y, sin and cos of x, at geometric frequencies
    (Chen, Xie, He, ICCV 2021, arXiv 2104.02057).
    """
    frequencies = temperature ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    angles = [axis.flatten()[:, None] * frequencies for axis in (ys, xs)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1).float()


class SinCosVisionTransformer(VisionTransformer):
    """timm's VisionTransformer with its position embedding replaced by a buffer: nothing to train or to decay."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "pos_embed": "none"})
        del self.pos_embed
        height, width = self.patch_embed.grid_size
        positions = sincos_positions(height, width, self.embed_dim)
        self.register_buffer("pos_embed", positions[None].to(self.patch_embed.proj.weight.dtype))

    def init_weights(self, *args: Any, **kwargs: Any) -> None:
        """Initialise the parameters; the positions are no parameter."""
        positions, self.pos_embed = getattr(self, "pos_embed", None), None
        super().init_weights(*args, **kwargs)
        self.pos_embed = positions


default_cfgs = untrained_configurations(
    "vit_tiny_patch16_gap_sincos",
    "vit_small_patch16_gap_sincos",
    first_conv="patch_embed.proj",
    classifier="head",
    input_size=(3, 224, 224),
    fixed_input_size=True,
    num_classes=1000,
    interpolation="bicubic",
    crop_pct=0.875,
)


def _build(variant: str, pretrained: bool, embed_dim: int, num_heads: int, **kwargs: Any) -> nn.Module:
    sizes = {"patch_size": 16, "embed_dim": embed_dim, "depth": 12, "num_heads": num_heads}
    arguments = {**sizes, "class_token": False, "global_pool": "avg", "fc_norm": False, **kwargs}
    return build_model_with_cfg(SinCosVisionTransformer, variant, pretrained, **arguments)


@register_model
def vit_tiny_patch16_gap_sincos(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ViT-T, patch 16: 192 wide, 12 deep, 3 heads."""
    return _build("vit_tiny_patch16_gap_sincos", pretrained, 192, 3, **kwargs)


@register_model
def vit_small_patch16_gap_sincos(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ViT-S, patch 16: 384 wide, 12 deep, 6 heads."""
    return _build("vit_small_patch16_gap_sincos", pretrained, 384, 6, **kwargs)
