"""Softmax regression with a penalty, to its optimum: L-BFGS on the leading curvature of the features."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import torch

from ood_nc.transfer.result import ROWS_AT_ONCE

HELD = 2**28
"""Numbers of standardised features that are kept (1 GiB); of more, blocks are standardised whenever they are read."""
MEMORY, ITERATIONS, SHORTENINGS = 10, 500, 8
DIRECTIONS, SKETCHED = 64, 2048

Pair: TypeAlias = tuple[torch.Tensor, torch.Tensor, float]
"""A step, the change of the slope over it, and the inverse of their product."""


class Samples(NamedTuple):
    """Features with the centre and the one scale that standardise them, and labels."""

    features: torch.Tensor
    labels: torch.Tensor
    mean: torch.Tensor
    scale: torch.Tensor

    def rows(self, indices: torch.Tensor) -> torch.Tensor:
        """The standardised features of some samples, float32; made when asked for, so no copy of all is held."""
        return (self.features[indices].to(self.mean.dtype) - self.mean).div_(self.scale).float()


def standardise(features: torch.Tensor, labels: torch.Tensor) -> Samples:
    """Measure about the mean of each dimension and the root of the mean variance over dimensions, block by block.

    About, in the precision of the features: what is subtracted and divided by is known exactly, and is undone so.
    """
    dtype = torch.promote_types(features.dtype, torch.float32)
    parts = features.split(ROWS_AT_ONCE)
    # Sums and numbers: a small tensor kept between blocks that come and go keeps their room from being used again.
    zero = features.new_zeros(features.shape[1], dtype=dtype)
    mean = sum((part.to(dtype).mean(dim=0) * (len(part) / len(features)) for part in parts), zero)
    norms = [float(torch.linalg.vector_norm(part.to(dtype) - mean, dtype=torch.float64)) for part in parts]
    deviation = math.hypot(*norms) / math.sqrt(features.numel())
    # Features that are all alike have no scale; then any does, as they tell nothing apart.
    return Samples(features, labels, mean, mean.new_tensor(deviation or 1.0))


class Blocks(NamedTuple):
    """Some samples, standardised, block by block; ``held`` are the features of all (n, d) where they fit."""

    samples: Samples
    indices: torch.Tensor
    held: torch.Tensor | None

    @classmethod
    def of(cls, samples: Samples, indices: torch.Tensor) -> Blocks:
        """The samples of these indices, in their order."""
        held = None
        if len(indices) * samples.features.shape[1] <= HELD:
            held = samples.mean.new_empty(len(indices), samples.features.shape[1], dtype=torch.float32)
            for part, room in zip(indices.split(ROWS_AT_ONCE), held.split(ROWS_AT_ONCE), strict=True):
                room.copy_(samples.rows(part))
        return cls(samples, indices, held)

    def part(self, chosen: slice) -> Blocks:
        """Some of them, without a copy."""
        return Blocks(self.samples, self.indices[chosen], None if self.held is None else self.held[chosen])

    def room(self, classes: int) -> list[torch.Tensor]:
        """Room for a number a class and sample, (C, n) a block, all of it one piece of memory.

        Many small pieces that stay, between large ones that come and go, would keep the gaps of these from being used.
        """
        sizes = [len(part) for part in self.indices.split(ROWS_AT_ONCE)]
        whole = torch.empty(classes * len(self.indices), device=self.indices.device)
        return [part.view(classes, -1) for part in whole.split([classes * size for size in sizes])]

    def rows(self) -> Iterator[torch.Tensor]:
        """The features of one block after the other."""
        if self.held is not None:
            return iter(self.held.split(ROWS_AT_ONCE))
        return map(self.samples.rows, self.indices.split(ROWS_AT_ONCE))

    def labels(self) -> Iterator[torch.Tensor]:
        """The labels of one block after the other."""
        return iter(self.samples.labels[self.indices].split(ROWS_AT_ONCE))


class Curvature(NamedTuple):
    """The second moment of the features (d, d), about: leading directions (d, k), values (k,), one value elsewhere."""

    directions: torch.Tensor
    values: torch.Tensor
    rest: torch.Tensor

    def solve(self, slope: torch.Tensor, share: float, penalty: float) -> torch.Tensor:
        """The slope (C, d + 1) over ``share * moment + penalty``, of the bias over ``share``."""
        inner, outer = 1 / (share * self.values + penalty), 1 / (share * self.rest + penalty)
        weights = slope[:, :-1]
        along = (weights @ self.directions) * (inner - outer)
        return torch.cat([outer * weights + along @ self.directions.T, slope[:, -1:] / share], dim=1)


def curvature_of(blocks: Blocks) -> Curvature:
    """Of about `SKETCHED` samples, by one step of subspace iteration from a random start that is always the same.

    Source: Halko, Martinsson, Tropp, "Finding Structure with Randomness", SIAM Review 2011, algorithm 4.4.
    """
    stride = max(1, len(blocks.indices) // SKETCHED)
    rows = torch.cat(list(blocks.part(slice(None, None, stride)).rows()))
    dim = rows.shape[1]
    start = torch.randn(dim, min(dim, DIRECTIONS), generator=torch.Generator().manual_seed(0)).to(rows.device)
    basis = torch.linalg.qr(rows.T @ (rows @ start))[0]
    values, turn = torch.linalg.eigh((rows @ basis).T @ (rows @ basis) / len(rows))
    rest = (rows.square().mean() * dim - values.sum()) / max(1, dim - len(values))
    return Curvature(basis @ turn, values.clamp_min(0), rest.clamp_min(0))


def minimise(
    blocks: Blocks, start: torch.Tensor, penalty: float, curvature: Curvature, tolerance: float
) -> torch.Tensor:
    """The parameters (C, d + 1), the bias last, with the least cross-entropy + penalty / 2 * |weights|^2.

    The cross-entropy is the mean over the samples. Every iteration reads the features twice: logits are linear along a
    direction, so that the length of the step costs no further product.

    Args:
        blocks: the samples.
        start: (C, d + 1).
        penalty: positive.
        curvature: of the samples or their like.
        tolerance: how far from the minimum the objective may be, about: half the decrement of a quasi-Newton step.
    """
    parameters = start
    logits, moves, errors = (blocks.room(len(start)) for _ in range(3))
    _fill(logits, parameters, blocks)
    for part, labels, out in zip(logits, blocks.labels(), errors, strict=True):
        _errors(part, labels, out)
    share = _variance(logits) / len(start)
    slope = _slope(blocks, errors, parameters, penalty)
    pairs: deque[Pair] = deque(maxlen=MEMORY)
    for _ in range(ITERATIONS):
        direction = -_over_curvature(slope, pairs, curvature, share, penalty)
        first = float(torch.sum(direction * slope))
        if -first <= 2 * tolerance:
            break
        _fill(moves, direction, blocks)
        length = _search(blocks, logits, moves, errors, parameters, direction, penalty, first)
        for part, move in zip(logits, moves, strict=True):
            part.add_(move, alpha=length)
        step = length * direction
        parameters = parameters + step
        before, slope = slope, _slope(blocks, errors, parameters, penalty)
        change = slope - before
        if (product := float(torch.sum(step * change))) <= 0:  # only rounding is left
            break
        pairs.append((step, change, 1 / product))
    return parameters


def _search(
    blocks: Blocks,
    logits: list[torch.Tensor],
    moves: list[torch.Tensor],
    errors: list[torch.Tensor],
    parameters: torch.Tensor,
    direction: torch.Tensor,
    penalty: float,
    first: float,
) -> float:
    """The length of the step, Newton's, shortened by secants where that is too long; ``errors`` become those behind."""
    weights, along = parameters[:, :-1], direction[:, :-1]
    quadratic = penalty * float(along.square().sum())
    linear = penalty * float(torch.sum(weights * along))
    length = -first / (_curve(moves, errors, blocks) / len(blocks.indices) + quadratic)
    for _ in range(SHORTENINGS):
        products = 0.0
        for place, labels in enumerate(blocks.labels()):
            _errors(torch.add(logits[place], moves[place], alpha=length), labels, errors[place])
            products += float(torch.dot(errors[place].flatten(), moves[place].flatten()))
        last = products / len(blocks.indices) + linear + length * quadratic
        if last <= -0.1 * first:
            break
        length *= first / (first - last)
    return length


def _curve(moves: list[torch.Tensor], errors: list[torch.Tensor], blocks: Blocks) -> float:
    """The second derivative of the summed cross-entropy along the moves of the logits."""
    total = 0.0
    for move, error, labels in zip(moves, errors, blocks.labels(), strict=True):
        own = move.gather(0, labels[None])
        weighted = error * move
        mean = weighted.sum(dim=0) + own[0]
        total += float(torch.dot(weighted.flatten(), move.flatten()) + own.square().sum() - torch.dot(mean, mean))
    return total


def _over_curvature(
    slope: torch.Tensor, pairs: deque[Pair], curvature: Curvature, share: float, penalty: float
) -> torch.Tensor:
    """Nocedal's two loops around the curvature of the features."""
    result, factors = slope, []
    for step, change, inverse in reversed(pairs):
        factors.append(inverse * float(torch.sum(step * result)))
        result = result - factors[-1] * change
    result = curvature.solve(result, share, penalty)
    for (step, change, inverse), factor in zip(pairs, reversed(factors), strict=True):
        result = result + (factor - inverse * float(torch.sum(change * result))) * step
    return result


def _logits(parameters: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """(C, n), samples last: what is done to classes is then done to long rows."""
    return torch.addmm(parameters[:, -1:], parameters[:, :-1], rows.T)


def _fill(parts: list[torch.Tensor], parameters: torch.Tensor, blocks: Blocks) -> None:
    """Write the logits of every block."""
    for out, rows in zip(parts, blocks.rows(), strict=True):
        torch.addmm(parameters[:, -1:], parameters[:, :-1], rows.T, out=out)


def _errors(logits: torch.Tensor, labels: torch.Tensor, out: torch.Tensor) -> None:
    """Write probabilities less the indicators of the classes (C, n)."""
    torch.softmax(logits, dim=0, out=out)
    out.scatter_add_(0, labels[None], logits.new_full((1, len(labels)), -1.0))


def _variance(logits: list[torch.Tensor]) -> float:
    """The mean over samples of 1 - the sum of squared probabilities, at least 1e-4."""
    squares = sum(float(part.softmax(dim=0).square_().sum()) for part in logits)
    return max(1 - squares / sum(part.shape[1] for part in logits), 1e-4)


def _slope(blocks: Blocks, errors: list[torch.Tensor], parameters: torch.Tensor, penalty: float) -> torch.Tensor:
    slope = torch.zeros_like(parameters)
    for rows, error in zip(blocks.rows(), errors, strict=True):
        slope[:, :-1].addmm_(error, rows)
        slope[:, -1] += error.sum(dim=1)
    slope /= len(blocks.indices)
    slope[:, :-1].add_(parameters[:, :-1], alpha=penalty)
    return slope


def evaluate(blocks: Blocks, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Accuracy and mean cross-entropy of each setting (settings, C, d + 1) on some samples, both (settings,)."""
    settings, num_classes, _ = parameters.shape
    right, loss = torch.zeros(2, settings, device=parameters.device, dtype=torch.float64)
    for rows, labels in zip(blocks.rows(), blocks.labels(), strict=True):
        logits = _logits(parameters.flatten(0, 1), rows).view(settings, num_classes, len(rows))
        wanted = labels.expand(settings, 1, -1)
        right += (logits.argmax(dim=1) == labels).sum(dim=1)
        loss += (logits.logsumexp(dim=1) - logits.gather(1, wanted)[:, 0]).sum(dim=1, dtype=torch.float64)
    return right / len(blocks.indices), loss / len(blocks.indices)
