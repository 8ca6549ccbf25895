"""All pairs of class means, a block of rows at a time: squared distances, and what is summed over directions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ood_nc.collapse._common import row_blocks

# Where two rows are this much closer than they are long (squared), the Gram form has lost digits.
_CLOSE = 1e-4


def pair_distances(means: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield (rows, squared distances (rows, K)) of centred means (K, d); infinity on the diagonal."""
    lengths = means.square().sum(dim=1)
    for rows in row_blocks(len(means), len(means)):
        scale = lengths[rows, None] + lengths
        squares = scale.addmm(means[rows], means.T, alpha=-2).clamp_min_(0)
        squares.diagonal(rows.start).fill_(torch.inf)
        first, second = (squares <= _CLOSE * scale).nonzero(as_tuple=True)
        for part in row_blocks(len(first), means.shape[1]):
            difference = means[rows][first[part]] - means[second[part]]
            squares[first[part], second[part]] = difference.square().sum(dim=1)
        yield rows, squares


@dataclass(frozen=True)
class DirectionSummary:
    """What one pass over all pairs of directions (K, d) gives.

    Attributes:
        angle: mean over pairs of |cos + 1/(K - 1)|.
        closest: the largest cosine of each direction with another one (K,).
        log_mean: mean over pairs of the log distance; minus infinity where two directions are equal.
        log_spread: population standard deviation of the log distance.
        potential: log of the mean over pairs of exp(-2 distance^2).
    """

    angle: float
    closest: torch.Tensor
    log_mean: float
    log_spread: float
    potential: float


def summarize_directions(rows: torch.Tensor) -> DirectionSummary:
    """Summarise the pairs of the directions of ``rows`` (K, d), K >= 2, none of which is zero."""
    count = len(rows)
    directions = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    pairs = count * (count - 1)
    angle = potential = log_mean = log_squares = 0.0
    seen = 0
    closest = []
    for _, squares in pair_distances(directions):
        closest.append(1 - squares.amin(dim=1) / 2)
        others = squares[squares.isfinite()]
        angle += float((1 - others / 2 + 1 / (count - 1)).abs().sum())
        potential += float((-2 * others).exp().sum())
        logs = others.log().div_(2)
        mean, seen = float(logs.mean()), seen + len(logs)
        step = mean - log_mean
        log_mean += step * len(logs) / seen
        log_squares += float((logs - mean).square().sum()) + step**2 * len(logs) * (seen - len(logs)) / seen
    return DirectionSummary(
        angle / pairs, torch.cat(closest), log_mean, math.sqrt(log_squares / pairs), math.log(potential / pairs)
    )
