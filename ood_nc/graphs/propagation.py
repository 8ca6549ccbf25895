"""Scores smoothed over the graph: a node is more in-distribution where its neighbours are."""

from __future__ import annotations

import torch
from torch import Tensor

from ood_nc.errors import UserError
from ood_nc.graphs.network import mean_aggregate


def propagate(scores: Tensor, edge_index: Tensor, *, steps: int = 2, alpha: float = 0.5) -> Tensor:
    """s <- alpha s + (1 - alpha) A^ s, ``steps`` times: energy propagation (Wu et al., ICLR 2023), for any score.

    Args:
        scores: of the nodes (N,); larger = more in-distribution.
        edge_index: (2, E), both directions of each edge.
        steps: K of the paper.
        alpha: the share of the node's own score; a node without neighbours keeps its own.

    Raises:
        UserError: alpha outside [0, 1].

    Example:
        >>> import torch
        >>> from ood_nc.graphs import propagate
        >>> propagate(torch.tensor([4.0, 0.0, 1.0]), torch.tensor([[0, 1], [1, 0]]), steps=1).tolist()
        [2.0, 2.0, 1.0]
    """
    if not 0 <= alpha <= 1:
        raise UserError(f"alpha is a share from 0 to 1, got {alpha}.")
    alone = torch.ones(len(scores), dtype=torch.bool, device=scores.device).index_fill_(0, edge_index[1], False)
    for _ in range(steps):
        smoothed = mean_aggregate(scores[:, None], edge_index)[:, 0]
        scores = scores.where(alone, alpha * scores + (1 - alpha) * smoothed)
    return scores
