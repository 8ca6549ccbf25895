"""For density and bank detectors: moments of transformed rows, seeded subsets, a bank in blocks.

Example:
    >>> import torch
    >>> rows = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    >>> moments_of(rows, lambda part: part.double() / part.norm(dim=1, keepdim=True))[0]
    tensor([0.3000, 0.9000], dtype=torch.float64)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ood_nc.detection.context import TapStatistics
from ood_nc.detection.kit import linalg, scatter

BLOCK = 4096
"""Rows of a bank that meet a chunk of queries at once."""
Transform = Callable[[Tensor], Tensor]


def second_moment_of(rows: Tensor, transform: Transform) -> Tensor:
    """Mean outer product of the transformed rows (r, r); ``transform`` maps a chunk (n, d) to a new float64 (n, r)."""
    return scatter.sum_of_grams(transform(part) for (part,) in linalg.chunks(rows)) / len(rows)


def moments_of(rows: Tensor, transform: Transform) -> tuple[Tensor, Tensor]:
    """Mean (r,) and covariance (r, r), over n, of the transformed rows, in two passes so that no digits cancel."""
    total = sum(transform(part).sum(dim=0) for (part,) in linalg.chunks(rows))
    assert isinstance(total, Tensor)
    mean = total / len(rows)
    return mean, second_moment_of(rows, lambda part: transform(part).sub_(mean))


def random_subset(count: int, size: int | None, seed: int) -> Tensor:
    """Ascending indices of ``size`` rows of ``count``, drawn without replacement; all for None or where it has no more.

    Example:
        >>> random_subset(3, 5, seed=0)
        tensor([0, 1, 2])
    """
    if size is None or size >= count:
        return torch.arange(count)
    drawn = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:size]
    return drawn.sort().values


def blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Aligned blocks of a bank's rows."""
    for start in range(0, len(tensors[0]), BLOCK):
        yield tuple(tensor[start : start + BLOCK] for tensor in tensors)


def class_means_by_logit(train: TapStatistics) -> Tensor:
    """Class means (C, d) in the order of the logits; zero for a class without samples."""
    means = train.class_means.new_zeros(train.num_logits, train.dim)
    return means.index_copy_(0, train.classes, train.class_means)
