"""GraphConv networks of any depth: X' = A^ X W2' + X W1', then ReLU, then BatchNorm; A^ the mean over neighbours."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch_geometric.nn import GraphConv
from torch_geometric.utils import scatter

from ood_nc.errors import UserError


def mean_aggregate(x: Tensor, edge_index: Tensor) -> Tensor:
    """A^ X: the mean of each node's neighbours' rows (N, d); zeros for a node without neighbours."""
    return scatter(x[edge_index[0]], edge_index[1], dim=0, dim_size=len(x), reduce="mean")


class LayerPass(NamedTuple):
    """One layer of a forward pass.

    Attributes:
        input: H (N, d), what the layer reads.
        aggregated: A^ H.
        own: H W1', None without W1.
        neighbours: A^ H W2'.
    """

    input: Tensor
    aggregated: Tensor
    own: Tensor | None
    neighbours: Tensor


class GraphNetwork(nn.Module):
    """``depth`` GraphConv layers of PyTorch Geometric without bias, the last of them to C outputs.

    BatchNorm has batch statistics at test time too, as in the paper's experiments: a batch is a graph.

    Args:
        inputs: node features.
        hidden: width of the layers.
        classes: C.
        depth: number of layers; the paper's 1 + 32 + 1 are 34.
        own_weight: whether a layer has W1, the term of the node's own features.
    """

    def __init__(self, inputs: int, hidden: int, classes: int, *, depth: int, own_weight: bool = True) -> None:
        super().__init__()
        if depth < 1:
            raise UserError(f"A network has one layer or more, got depth {depth}.")
        widths = [inputs, *[hidden] * (depth - 1), classes]
        self.own_weight = own_weight
        self.layers = nn.ModuleList(GraphConv(a, b, aggr="mean", bias=False) for a, b in itertools.pairwise(widths))
        if not own_weight:
            for layer in self.convolutions:
                layer.lin_root.weight.data.zero_()
                layer.lin_root.weight.requires_grad_(False)
        self.norms = nn.ModuleList(nn.BatchNorm1d(hidden, track_running_stats=False) for _ in range(depth - 1))

    @property
    def convolutions(self) -> list[GraphConv]:
        """The layers, as what they are."""
        return [layer for layer in self.layers if isinstance(layer, GraphConv)]

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Outputs (N, C)."""
        for layer, norm in zip(self.layers, self.norms, strict=False):
            x = norm(layer(x, edge_index).relu())
        return self.layers[-1](x, edge_index)

    def weights(self) -> list[tuple[Tensor | None, Tensor]]:
        """W1 (None without) and W2 of every layer, each (out, in)."""
        return [
            (layer.lin_root.weight.detach() if self.own_weight else None, layer.lin_rel.weight.detach())
            for layer in self.convolutions
        ]

    @torch.no_grad()
    def passes(self, x: Tensor, edge_index: Tensor) -> Iterator[LayerPass]:
        """The layers one by one, as they are computed."""
        for depth, (w1, w2) in enumerate(self.weights()):
            aggregated = mean_aggregate(x, edge_index)
            found = LayerPass(x, aggregated, None if w1 is None else x @ w1.T, aggregated @ w2.T)
            yield found
            if depth < len(self.norms):
                out = found.neighbours if found.own is None else found.neighbours + found.own
                x = self.norms[depth](out.relu())

    @torch.no_grad()
    def head(self) -> Tensor:
        """The last layer as a linear head (C, 2 d) on [A^ H, H], which is what its outputs are; (C, d) without W1."""
        w1, w2 = self.weights()[-1]
        return w2 if w1 is None else torch.cat([w2, w1], dim=1)

    @torch.no_grad()
    def head_features(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """What `head` reads: [A^ H, H] of the last layer (N, 2 d), or A^ H (N, d) without W1."""
        *_, last = self.passes(x, edge_index)
        return last.aggregated if last.own is None else torch.cat([last.aggregated, last.input], dim=1)
