"""Squared distances and cosines of all pairs of class means, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ood_nc.collapse._common import row_blocks

# Where two rows are this much closer than they are long (squared), the Gram form has lost digits.
_CLOSE = 1e-4


def pair_distances(means: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield (rows, squared distances (rows, K)) of centred means (K, d); infinity on the diagonal."""
    lengths = means.square().sum(dim=1)
    for rows in row_blocks(len(means), len(means)):
        scale = lengths[rows, None] + lengths
        squares = scale.addmm(means[rows], means.T, alpha=-2)
        _set_diagonal(squares, rows, torch.inf)
        first, second = (squares <= _CLOSE * scale).nonzero(as_tuple=True)
        for part in row_blocks(len(first), means.shape[1]):
            difference = means[rows][first[part]] - means[second[part]]
            squares[first[part], second[part]] = difference.square().sum(dim=1)
        yield rows, squares


def pair_cosines(means: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield (rows, cosines (rows, K)) of centred means (K, d) of non-zero length; 0 on the diagonal."""
    directions = means / torch.linalg.vector_norm(means, dim=1, keepdim=True)
    for rows in row_blocks(len(means), len(means)):
        cosines = (directions[rows] @ directions.T).clamp_(-1, 1)
        _set_diagonal(cosines, rows, 0.0)
        yield rows, cosines


def _set_diagonal(block: torch.Tensor, rows: slice, value: float) -> None:
    index = torch.arange(rows.start, rows.stop, device=block.device)
    block[index - rows.start, index] = value
