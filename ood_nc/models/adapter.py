"""The adapter between encoder and projector: a small change of features whose network stays as it is."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ood_nc.errors import UserError


class Adapter(nn.Module):
    """A residual bottleneck, h + W2 GELU(W1 norm(h) + b1) + b2, of 2 d w + 3 d + w weights.

    The norm is layer norm. W2 and b2 start at 0, so that at first it changes nothing.

    Source: Houlsby et al., "Parameter-efficient transfer learning for NLP", ICML 2019.

    Args:
        dim: d, of the features.
        width: w, what lies between the two maps.

    Raises:
        UserError: a width below 1.

    Example:
        >>> adapter, features = Adapter(dim=8, width=2), torch.randn(3, 8)
        >>> torch.equal(adapter(features), features), sum(weight.numel() for weight in adapter.parameters())
        (True, 58)
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        if width < 1:
            raise UserError(f"An adapter needs a width of at least 1, or 0 for none, got {width}.")
        self.norm, self.down, self.up = nn.LayerNorm(dim), nn.Linear(dim, width), nn.Linear(width, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the changed features (B, d) of features (B, d)."""
        return features + self.change(features)

    def change(self, features: torch.Tensor) -> torch.Tensor:
        """Return what it adds to features (B, d), (B, d)."""
        added: torch.Tensor = self.up(F.gelu(self.down(self.norm(features))))
        return added
