"""The dimension-independence experiment: one step of NoisyGD on two classes, p coordinates of shift beta."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import norm

from ood_nc.errors import UserError


def one_step_errors(
    dim: int,
    shift: float,
    *,
    samples: int,
    noise_multiplier: float,
    replicates: int = 100,
    tests: int = 200,
    seed: int = 0,
) -> torch.Tensor:
    """Share of wrong test samples after one private step from zero, of each replicate (replicates,).

    A sample of class y = 1 or -1 is x = y (1, 0, ..., 0) + (0, v), v of ``dim`` coordinates shift or -shift at random.
    The step is w = sum y x min(1, 2 clip/|x|) / 2 + clip s Z with clip 1/2, the gradient's norm without shift (Wang,
    Zhu, Su, Wang 2024, the binary case).

    Example:
        >>> from ood_nc.privacy import one_step_errors
        >>> float(one_step_errors(10, 0.1, samples=100, noise_multiplier=0.0).max())
        0.0
    """
    if dim < 1 or samples < 1 or shift < 0:
        raise UserError(f"needs dim and samples from 1 and a shift from 0, got {dim}, {samples}, {shift:g}.")
    generator = torch.Generator().manual_seed(seed)
    factor = min(1.0, 1 / math.sqrt(1 + dim * shift**2)) / 2
    errors = []
    for _ in range(replicates):
        shifts = shift * (2.0 * torch.randint(2, (samples, dim), generator=generator) - 1)
        labels = 2.0 * torch.randint(2, (samples,), generator=generator) - 1
        noise = 0.5 * noise_multiplier * torch.randn(dim + 1, generator=generator)
        first, rest = factor * samples + noise[0], factor * labels @ shifts + noise[1:]
        # A test sample's y v has the distribution of v.
        margins = first + shift * (2.0 * torch.randint(2, (tests, dim), generator=generator) - 1) @ rest
        errors.append((margins <= 0).double().mean())
    return torch.stack(errors)


def predicted_error(dim: int, shift: float, *, samples: int, noise_multiplier: float) -> float:
    """Phi(-(N/s) / (1 + p beta^2)): the expected `one_step_errors` where the training shifts average out.

    Of 1 + p beta^2, one square root is the noise that reaches a test sample, the other what clipping takes.

    Example:
        >>> from ood_nc.privacy import predicted_error
        >>> round(predicted_error(100, 0.1, samples=100, noise_multiplier=50.0), 4)
        0.1587
    """
    return float(norm.cdf(-samples / noise_multiplier / (1 + dim * shift**2)))


class Threshold(NamedTuple):
    """Where the margin in standard deviations of the noise has halved, in p beta^2, with an interval of 95 %."""

    value: float
    low: float
    high: float


def shift_threshold(
    dims: Sequence[int], shifts: Sequence[float], errors: Sequence[torch.Tensor], *, margin: float, seed: int = 0
) -> Threshold:
    """The p beta^2 beyond which the error depends on p, fitted to `one_step_errors` of several p and beta.

    With z the normal quantile of an error, margin / z = 1 + p beta^2 / threshold; least squares, weighted by z^2.
    Interval: 500 bootstrap samples of replicates.

    Args:
        dims: p of each cell.
        shifts: beta of each cell, positive.
        errors: of each cell, by replicate.
        margin: z without shift, N / s.
        seed: of the bootstrap.

    Raises:
        UserError: a cell without shift.

    Example:
        >>> import torch
        >>> from ood_nc.privacy import predicted_error, shift_threshold
        >>> dims, shifts = [100, 400], [0.1, 0.1]
        >>> exact = [predicted_error(p, b, samples=100, noise_multiplier=50) for p, b in zip(dims, shifts)]
        >>> round(shift_threshold(dims, shifts, [torch.tensor([error] * 4) for error in exact], margin=2.0).value, 6)
        1.0
    """
    x = np.asarray(dims) * np.asarray(shifts, dtype=float) ** 2
    if not (x > 0).all():
        raise UserError("Every cell needs a positive shift.")
    generator = np.random.default_rng(seed)
    cells = [np.asarray(cell) for cell in errors]

    def fit(means: list[float]) -> float:
        z = norm.isf(np.clip(means, 1e-9, 0.5 - 1e-9))
        return float((z**2 * x**2).sum() / (z**2 * x * (margin / z - 1)).sum())

    drawn = [fit([generator.choice(cell, len(cell)).mean() for cell in cells]) for _ in range(500)]
    return Threshold(fit([cell.mean() for cell in cells]), *np.quantile(drawn, [0.025, 0.975]).tolist())
