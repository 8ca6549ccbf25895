"""The symmetric stochastic block model, balanced, with the settings of Kothapalli, Tirer and Bruna (NeurIPS 2023)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch_geometric.data import Data

from ood_nc.errors import UserError

Draw = Literal["pair", "paper"]


@dataclass(frozen=True)
class BlockModel:
    """N nodes in C communities of equal size; two nodes are joined with probability p inside one and q across.

    Attributes:
        nodes: N, a multiple of C.
        communities: C.
        p: probability of an edge inside a community.
        q: probability of an edge between two.
        draw: ``pair`` draws each pair of nodes once, so that p and q are what a graph has; ``paper`` draws both
            directions and joins them, as the authors' code does: then a pair is joined with 1 - (1 - p)^2.

    Raises:
        UserError: N is no multiple of C, a probability is outside [0, 1], or both are 0.

    Example:
        >>> from ood_nc.graphs import SETTINGS
        >>> round(SETTINGS["c2-n1000"].recovery_margin, 3), round(SETTINGS["c2-n1500"].recovery_margin, 3)
        (-0.008, 0.011)
    """

    nodes: int
    communities: int
    p: float
    q: float
    draw: Draw = "pair"

    def __post_init__(self) -> None:
        if self.communities < 2 or self.nodes < self.communities or self.nodes % self.communities:
            raise UserError(
                f"{self.nodes} nodes do not make {self.communities} communities of equal size: "
                "give two communities or more, and a multiple of them as nodes."
            )
        if not (0 <= self.p <= 1 and 0 <= self.q <= 1):
            raise UserError(f"p and q are probabilities from 0 to 1, got {self.p} and {self.q}.")
        if self.p == self.q == 0:
            raise UserError("p and q are 0, so that graphs have no edges: raise one of them.")

    @property
    def community_size(self) -> int:
        """n = N / C."""
        return self.nodes // self.communities

    @property
    def realised(self) -> tuple[float, float]:
        """The probabilities of an edge that graphs have: (p, q), or twice drawn with ``draw="paper"``."""
        if self.draw == "pair":
            return self.p, self.q
        return 1 - (1 - self.p) ** 2, 1 - (1 - self.q) ** 2

    @property
    def heterophilic(self) -> bool:
        """Whether communities are sparser inside than across."""
        return self.p < self.q

    @property
    def recovery_margin(self) -> float:
        """|sqrt(a) - sqrt(b)| - sqrt(C), a = p N / ln N and b = q N / ln N; exact recovery is possible above 0.

        Abbe, Bandeira and Hall (IEEE Transactions on Information Theory 2016), in its form for C communities.
        """
        scale = self.nodes / math.log(self.nodes)
        p, q = self.realised
        return abs(math.sqrt(p * scale) - math.sqrt(q * scale)) - math.sqrt(self.communities)

    def swapped(self) -> BlockModel:
        """The heterophilic model: p and q exchanged."""
        return BlockModel(self.nodes, self.communities, self.q, self.p, self.draw)

    def sample(self, generator: torch.Generator, *, dim: int, held_out: bool = False, swapped: float = 0.0) -> Data:
        """One graph.

        Args:
            generator: what it is drawn from.
            dim: of the node features x, each N(0, I).
            held_out: one community more, of the same size, whose nodes have the label C.
            swapped: share of the nodes of each of the C communities that are joined to their own with q and to others
                with p; the entry ``swapped`` (N,) of the graph says which.

        Returns:
            ``x`` (N, dim), ``edge_index`` (2, E) with both directions of an edge, ``y`` (N,), ``swapped`` (N,).
        """
        communities = self.communities + held_out
        labels = torch.arange(communities).repeat_interleave(self.community_size)
        odd = torch.arange(len(labels)) % self.community_size < round(swapped * self.community_size)
        odd &= labels < self.communities
        same = labels[:, None] == labels[None, :]
        inside, across = self.realised
        probability = torch.where(same ^ (odd[:, None] | odd[None, :]), inside, across)
        joined = (torch.rand(len(labels), len(labels), generator=generator) < probability).triu(diagonal=1)
        x = torch.randn(len(labels), dim, generator=generator)
        edges = (joined | joined.T).nonzero().T.contiguous()
        return Data(x=x, edge_index=edges, y=labels, swapped=odd)


SETTINGS = {
    "c2-n1000": BlockModel(1000, 2, 0.025, 0.0017),
    "c2-n1500": BlockModel(1500, 2, 0.018, 0.0012),
    "c4-n1000": BlockModel(1000, 4, 0.1, 0.0068),
    "c4-n1500": BlockModel(1500, 4, 0.072, 0.0048),
}
"""The paper's homophilic settings by name; the heterophilic ones are the same with ``-heterophilic`` behind."""

SETTINGS |= {f"{name}-heterophilic": model.swapped() for name, model in SETTINGS.items()}
