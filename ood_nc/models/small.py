"""What the networks for small images share: a linear classifier behind dropout, and timm's model protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.models import generate_default_cfgs
from torch import nn


class SmallNetwork(nn.Module):
    """Base of those networks; one defines ``forward_features`` and calls ``add_head`` when its layers are there.

    Attributes:
        classifier: the name of the linear classifier.
    """

    classifier = "fc"
    global_pool: nn.Module
    flatten: nn.Module
    forward_features: Callable[[torch.Tensor], torch.Tensor]

    def add_head(self, num_features: int, num_classes: int, drop_rate: float) -> None:
        """Add dropout and the classifier, none for 0 classes."""
        self.num_features = self.head_hidden_size = num_features
        self.drop_rate, self.head_drop = drop_rate, nn.Dropout(drop_rate)
        self.reset_classifier(num_classes)

    def get_classifier(self) -> nn.Module:
        """Return the linear classifier."""
        return self.get_submodule(self.classifier)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier, keeping device and dtype; there is no other pooling to choose."""
        self.num_classes, like = num_classes, next(self.parameters())
        new = nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype) if num_classes else None
        self.add_module(self.classifier, new or nn.Identity())

    def pooled(self, last: torch.Tensor) -> torch.Tensor:
        """Return the features (B, d) of what ``forward_features`` gave."""
        return self.flatten(self.global_pool(last))

    def forward_head(self, last: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Return the logits, or the features (B, d)."""
        features = self.head_drop(self.pooled(last))
        return features if pre_logits else self.get_classifier()(features)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return self.forward_head(self.forward_features(images))


def untrained_configurations(*names: str, first_conv: str, classifier: str = "fc", **more: Any) -> Any:
    """timm's configurations of untrained networks, for 32-pixel images in RGB where ``more`` does not say otherwise."""
    shared = {
        "input_size": (3, 32, 32),
        "num_classes": 10,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "first_conv": first_conv,
        "classifier": classifier,
    }
    return generate_default_cfgs({f"{name}.untrained": shared | more for name in names})
