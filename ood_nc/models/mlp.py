"""A multilayer perceptron on pixels, registered with timm as `mlp10`: that of Rangamani et al. (ICML 2023)."""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.models import build_model_with_cfg, register_model
from torch import nn

from ood_nc.errors import UserError
from ood_nc.models.small import SmallNetwork, untrained_configurations


class Layer(nn.Module):
    """A linear map without bias, batch norm, ReLU."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear, self.norm, self.act = linear, nn.BatchNorm1d(linear.out_features), nn.ReLU()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return (B, width)."""
        return self.act(self.norm(self.linear(rows)))


class MLP(SmallNetwork):
    """Layers of one width on the flattened image, and a linear classifier, with timm's model protocol.

    Args:
        num_classes: 0 for none.
        in_chans: input channels.
        img_size: side of the images, or height and width.
        drop_rate: dropout in front of the classifier.
        depth: hidden layers.
        width: of each.
        tied_from: the number, from 2, of the first layer that shares one linear map with all that follow: what the
            paper ties where layers are collapsed. None: none does.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        img_size: int | tuple[int, int] = 32,
        drop_rate: float = 0.0,
        depth: int = 10,
        width: int = 1024,
        tied_from: int | None = None,
    ) -> None:
        super().__init__()
        if tied_from is not None and not 2 <= tied_from <= depth:
            raise UserError(f"tied_from must be between 2 and the depth of {depth}, got {tied_from}.")
        sides = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.depth = depth
        self.feature_info: list[dict[str, Any]] = []
        self.flatten = nn.Flatten()
        for index in range(1, depth + 1):
            linear = nn.Linear(in_chans * math.prod(sides) if index == 1 else width, width, bias=False)
            if tied_from is not None and index > tied_from:
                linear = self.get_submodule(f"layer{tied_from}").linear  # type: ignore[assignment]
            else:
                nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
            self.add_module(f"layer{index}", Layer(linear))
        self.add_head(width, num_classes, drop_rate)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's patterns of parameter groups."""
        return {"stem": r"^layer1\.", "blocks": r"^layer(\d+)"}

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the last hidden layer (B, width)."""
        rows = self.flatten(images)
        for index in range(1, self.depth + 1):
            rows = self.get_submodule(f"layer{index}")(rows)
        return rows

    def pooled(self, last: torch.Tensor) -> torch.Tensor:
        """Return the last hidden layer as it is."""
        return last


default_cfgs = untrained_configurations("mlp10", first_conv="layer1.linear", fixed_input_size=True)


@register_model
def mlp10(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Ten hidden layers of 1,024."""
    return build_model_with_cfg(MLP, "mlp10", pretrained, **kwargs)
