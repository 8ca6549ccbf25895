"""Condition C of Kothapalli, Tirer and Bruna (NeurIPS 2023): within a class all nodes see the classes in equal shares.

A collapsed minimiser of the graph-based unconstrained features model needs it.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from scipy.stats import binom
from torch import Tensor
from torch_geometric.data import Data

from ood_nc.errors import UserError


def neighbour_shares(edge_index: Tensor, labels: Tensor) -> Tensor:
    """Share of each node's neighbours in each class (N, C), float64; zeros for a node without neighbours."""
    classes = int(labels.max()) + 1
    counts = torch.zeros(len(labels), classes, dtype=torch.float64)
    source, target = edge_index
    counts.index_put_((target, labels[source]), torch.ones(len(target), dtype=torch.float64), accumulate=True)
    return counts / counts.sum(dim=1, keepdim=True).clamp(min=1)


def condition_c_deviation(edge_index: Tensor, labels: Tensor) -> float:
    """Largest distance between two nodes of one class of the share of neighbours in any class; 0 where C holds.

    Args:
        edge_index: (2, E), both directions of each edge.
        labels: classes (N,).

    Example:
        >>> import torch
        >>> from ood_nc.graphs import condition_c_deviation
        >>> condition_c_deviation(torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), torch.tensor([0, 0, 1]))
        0.5
    """
    shares = neighbour_shares(edge_index, labels)
    parts = [shares[labels == label] for label in labels.unique()]
    return max(float((part.amax(dim=0) - part.amin(dim=0)).max()) for part in parts)


def condition_c_graph(
    community_size: int, communities: int, inside: int, across: int, generator: torch.Generator, *, dim: int
) -> Data:
    """A random graph that satisfies Condition C exactly: each node has equally many neighbours in each community.

    Circulant graphs (degree ``inside`` in a community, ``across`` between two) whose nodes are shuffled.

    Args:
        community_size: n.
        communities: C.
        inside: neighbours in the own community, below n; even where n is odd.
        across: neighbours in each other community, at most n.
        generator: of offsets, order and features.
        dim: of the node features, each N(0, I).

    Raises:
        UserError: no such graph exists.
    """
    n = community_size
    if not (0 <= inside < n and 0 <= across <= n) or (inside * n) % 2:
        raise UserError(
            f"No community of {n} nodes gives each {inside} neighbours inside and {across} in each other: give fewer, "
            "and where the number of nodes is odd an even number inside."
        )
    adjacency = torch.zeros(n * communities, n * communities, dtype=torch.bool)
    for a in range(communities):
        rows = slice(a * n, a * n + n)
        adjacency[rows, rows] = _shuffled(_regular(n, inside, generator), generator, both=False)
        for b in range(a + 1, communities):
            columns = slice(b * n, b * n + n)
            block = _shuffled(_circulant(n, torch.arange(across)), generator, both=True)
            adjacency[rows, columns], adjacency[columns, rows] = block, block.T
    labels = torch.arange(communities).repeat_interleave(n)
    x = torch.randn(len(labels), dim, generator=generator)
    return Data(x=x, edge_index=adjacency.nonzero().T.contiguous(), y=labels)


def _circulant(n: int, offsets: Tensor) -> Tensor:
    matrix = torch.zeros(n, n, dtype=torch.bool)
    rows = torch.arange(n)
    for offset in offsets.tolist():
        matrix[rows, (rows + offset) % n] = True
    return matrix


def _regular(n: int, degree: int, generator: torch.Generator) -> Tensor:
    half = torch.randperm((n - 1) // 2, generator=generator)[: degree // 2] + 1
    offsets = torch.cat([half, n - half])
    if degree % 2:
        offsets = torch.cat([offsets, torch.tensor([n // 2])])
    return _circulant(n, offsets)


def _shuffled(matrix: Tensor, generator: torch.Generator, *, both: bool) -> Tensor:
    rows = torch.randperm(len(matrix), generator=generator)
    columns = torch.randperm(len(matrix), generator=generator) if both else rows
    return matrix[rows][:, columns]


def probability_bound(community_size: int, communities: int, p: float, q: float) -> float:
    """log10 of an upper bound of the probability that a graph of the block model satisfies Condition C.

    Given the edges inside the communities, the numbers of neighbours of the n nodes of one community in another are
    independent and binomial, B(n, q). Under Condition C that of the first node fixes the others, each of which then
    has at most the probability m = max_k P(B(n, q) = k); a community without inner edges is the one exception. So
    with C (C - 1)/2 pairs of communities P <= m^((n - 1) C (C - 1)/2) + C (1 - p)^(n (n - 1)/2) [ours].

    Example:
        >>> from ood_nc.graphs import probability_bound
        >>> round(probability_bound(500, 2, 0.025, 0.0017))
        -184
    """
    n, pairs = community_size, communities * (communities - 1) / 2
    mode = math.floor((n + 1) * q)
    bound = pairs * (n - 1) * float(binom.logpmf(min(mode, n), n, q))
    empty = -math.inf if p == 1 else math.log(communities) + n * (n - 1) / 2 * math.log1p(-p)
    return min(0.0, float(np.logaddexp(bound, empty))) / math.log(10)


def probability_exact(community_size: int, communities: int, p: float, q: float) -> float:
    """The same probability, by enumerating all graphs; for at most 6 nodes.

    Raises:
        UserError: more nodes than that.
    """
    nodes = community_size * communities
    if nodes > 6:
        raise UserError(f"{nodes} nodes have 2^{nodes * (nodes - 1) // 2} graphs: at most 6 nodes are enumerated.")
    labels = np.repeat(np.arange(communities), community_size)
    first, second = np.triu_indices(nodes, 1)
    chance = np.where(labels[first] == labels[second], p, q)
    edges = np.array(list(itertools.product((False, True), repeat=len(first))))
    adjacency = np.zeros((len(edges), nodes, nodes))
    adjacency[:, first, second] = adjacency[:, second, first] = edges
    shares = adjacency @ np.eye(communities)[labels]
    shares /= np.maximum(shares.sum(axis=2, keepdims=True), 1)
    blocks = shares.reshape(len(edges), communities, community_size, communities)
    holds = np.isclose(blocks, blocks[:, :, :1]).all(axis=(1, 2, 3))
    return float(np.where(edges, chance, 1 - chance).prod(axis=1)[holds].sum())
