"""The map between encoder and head: frozen simplex-ETF weights; for the ablation random or trainable ones."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from ood_nc.errors import UserError, nearest
from ood_nc.models.etf import CONSTRUCTIONS, orthonormal_weight, paper_weight

KINDS = ("simplex_etf", "random", "plastic")


class FrozenLinear(nn.Module):
    """A bias-free linear map whose weight is a buffer: no gradient, no update, no weight decay, kept in the state dict.

    Args:
        weight: (out_features, in_features).
    """

    weight: torch.Tensor

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return features @ weight.T, (B, out_features)."""
        return F.linear(features, self.weight)

    def extra_repr(self) -> str:
        """Return what `print` shows in the brackets."""
        return f"in_features={self.weight.shape[1]}, out_features={self.weight.shape[0]}, frozen"


class Projector(nn.Module):
    """Linear maps with a ReLU between each two, then L2 normalisation: d -> h -> ... -> h -> c, h = width * d.

    Source: Harun, Gallardo, Kanan, ICML 2025 (arXiv 2502.10691); the defaults are the paper's (depth 2, h = 4d, c = d).
    With the `paper` construction at depth 2, m = the mean over a vector's own coordinates, z = ReLU(e - m) and
    r = ReLU(-m), the output is z - (sum(z) + (h - d) r)/c, L2-normalised. A constant vector with m >= 0 thus maps to
    zero up to rounding (norm about 1e-6 in float32), which an `eps` below that would blow up to a unit vector.

    Args:
        in_dim: d, the encoder's width.
        kind: ``simplex_etf`` (frozen, bias-free), ``random`` (frozen, bias-free, Gaussian weights of variance
            1 / columns: what depth does without a frame) or ``plastic`` (trainable, with biases).
        construction: of the frozen weights, ``paper`` or ``orthonormal`` (see `etf`).
        depth: number of linear maps.
        width: hidden width in multiples of d.
        dim: c, the output width; d when not given.
        normalize: L2-normalise the output.
        eps: the norm is clamped from below by it, so that a zero row stays zero.
        seed: of the orthonormal construction and of the random weights.

    Raises:
        UserError: an unknown kind or construction, a width or depth below 1, no simplex of that width.

    Example:
        >>> projector = Projector(in_dim=8)
        >>> out = projector(torch.randn(2, 8, generator=torch.Generator().manual_seed(0)))
        >>> out.shape, out.norm(dim=1)
        (torch.Size([2, 8]), tensor([1.0000, 1.0000]))
    """

    def __init__(
        self,
        in_dim: int,
        kind: str = "simplex_etf",
        *,
        construction: str = "paper",
        depth: int = 2,
        width: float = 4.0,
        dim: int | None = None,
        normalize: bool = True,
        eps: float = 1e-12,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise UserError(
                f"Unknown projector {kind!r}: use simplex_etf, random, plastic or none.{nearest(kind, KINDS)}"
            )
        if construction not in CONSTRUCTIONS:
            hint = nearest(construction, CONSTRUCTIONS)
            raise UserError(f"Unknown ETF construction {construction!r}: use paper or orthonormal.{hint}")
        hidden, out_dim = round(width * in_dim), in_dim if dim is None else dim
        if depth < 1 or hidden < 1 or out_dim < 1:
            raise UserError(f"A projector needs depth, width and dim of at least 1, got {depth}, {hidden}, {out_dim}.")
        self.in_dim, self.out_dim, self.kind = in_dim, out_dim, kind
        self.construction, self.depth, self.width, self.seed = construction, depth, width, seed
        self.normalize, self.eps = normalize, eps
        sizes = [in_dim, *[hidden] * (depth - 1), out_dim]
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleList(self._layer(a, b, generator) for a, b in pairwise(sizes))

    def _layer(self, columns: int, rows: int, generator: torch.Generator) -> nn.Module:
        if self.kind == "plastic":
            return nn.Linear(columns, rows)
        if self.kind == "random":
            weight = torch.randn(rows, columns, dtype=torch.float64, generator=generator) / columns**0.5
        elif self.construction == "paper":
            weight = paper_weight(rows, columns, self.out_dim)
        else:
            weight = orthonormal_weight(rows, columns, generator)
        return FrozenLinear(weight.to(torch.get_default_dtype()))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the projection (B, c) of features (B, d).

        The norm is taken in float32 (float64 for float64), under autocast too: squares overflow in float16.
        """
        for index, layer in enumerate(self.layers):
            features = layer(features if index == 0 else F.relu(features))
        if not self.normalize:
            return features
        weight = cast(torch.Tensor, self.layers[-1].weight)
        features = features.to(torch.float64 if weight.dtype == torch.float64 else torch.float32)
        return F.normalize(features, dim=1, eps=self.eps).to(weight.dtype)

    def options(self) -> dict[str, object]:
        """Return the keyword arguments that rebuild it, `in_dim` and `kind` apart."""
        names = ("construction", "depth", "width", "normalize", "eps", "seed")
        return {"dim": self.out_dim, **{name: getattr(self, name) for name in names}}

    def extra_repr(self) -> str:
        """Return what `print` shows in the brackets."""
        return f"{self.kind}, normalize={self.normalize}"


def make_projector(given: str | Projector | None, width: int, options: Mapping[str, Any]) -> Projector | None:
    """Return a projector of encoder features of a width: the given one, or one of the given kind; None for none.

    Raises:
        UserError: an unknown kind or option, or a projector of another width.
    """
    if given is None or given == "none":
        return None
    if isinstance(given, str):
        try:
            return Projector(width, given, **options)
        except TypeError as error:
            raise UserError(f"projector_options {dict(options)}: {error}.") from None
    if given.in_dim != width:
        raise UserError(f"The projector takes {given.in_dim} features, but the encoder gives {width}.")
    return given
