"""Linear classifiers in closed form: every setting from class means, one scatter and its eigen-decomposition."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import torch

from ood_nc import accumulate
from ood_nc.errors import UserError
from ood_nc.transfer._softmax_regression import Blocks, Samples, evaluate
from ood_nc.transfer._stratify import hold_out
from ood_nc.transfer.linear import HELD_OUT, LinearProbe
from ood_nc.transfer.result import ROWS_AT_ONCE, ProbeResult, Task, read_test


class Moments(NamedTuple):
    """Samples (C,), means (C, d) and the scatter around those (d, d) of classes that all have samples, float64."""

    counts: torch.Tensor
    means: torch.Tensor
    within: torch.Tensor

    @property
    def mean(self) -> torch.Tensor:
        """Mean of all samples (d,)."""
        return self.counts @ self.means / self.counts.sum()


Solution: TypeAlias = Callable[[float], tuple[torch.Tensor, torch.Tensor]]
"""From a setting to W (C, d) and b (C,), float64: logits = W (h - mean of all samples) + b."""


def moments_of(features: torch.Tensor, labels: torch.Tensor, indices: torch.Tensor, num_classes: int) -> Moments:
    """The moments of some samples; float32 features are multiplied in float32 and added up in float64."""
    dim, device = features.shape[1], features.device
    parts = indices.split(ROWS_AT_ONCE)
    counts = labels[indices].bincount(minlength=num_classes).double()
    means = torch.zeros(num_classes, dim, dtype=torch.float64, device=device)
    for part in parts:
        means += accumulate.class_sums(features[part], labels[part], None, num_classes)
    means /= counts.clamp_min(1)[:, None]
    dtype = torch.promote_types(features.dtype, torch.float32)
    centers = accumulate.split(means.clone(), dtype)
    within = torch.zeros(dim, dim, dtype=torch.float64, device=device)
    for part in parts:
        block = torch.empty(len(part), dim, dtype=dtype, device=device)
        squares = accumulate.center_rows(features[part], labels[part], centers, block)
        accumulate.add_scatter(within, block, squares)
    return Moments(counts, means, accumulate.fill_lower(within))


def merge(first: Moments, second: Moments) -> Moments:
    """The moments of both together."""
    counts = first.counts + second.counts
    step = second.means - first.means
    share = second.counts / counts
    apart = step * (first.counts * share).sqrt()[:, None]
    return Moments(counts, first.means + share[:, None] * step, first.within + second.within + apart.T @ apart)


def fit(
    features: torch.Tensor,
    labels: torch.Tensor,
    solve: Callable[[Moments], Solution],
    name: str,
    grid: Sequence[float],
    seed: int,
) -> tuple[LinearProbe, torch.Tensor]:
    """The classifier of all samples at the setting with the best accuracy on a stratified fifth held out of them.

    At a tie the largest setting, which is the simplest classifier; the middle one where nothing can be held out.

    Returns:
        The classifier of the classes that have samples, and those classes (C,).

    Raises:
        UserError: fewer than two classes, or no setting.
    """
    classes, members = labels.unique(return_inverse=True)
    if len(classes) < 2:
        raise UserError(f"A linear probe needs two classes, train_labels holds only class {int(classes[0])}.")
    if not grid:
        raise UserError(f"The {name} must be chosen from at least one value.")
    settings = sorted(grid)
    setting, selected, selected_on = settings[len(settings) // 2], {}, None
    kept, held_out = hold_out(members, HELD_OUT, seed)
    moments = moments_of(features, members, kept, len(classes))
    if len(held_out):
        accuracies = _held_out_accuracies(features, members, held_out, moments, solve, settings)
        best = max(range(len(settings)), key=lambda index: (accuracies[index], index))
        setting, selected, selected_on = settings[best], {"held_out_accuracy": accuracies[best]}, "held out of train"
        moments = merge(moments, moments_of(features, members, held_out, len(classes)))
    exact, offset = solve(moments)(setting)
    weight = exact.float()
    # From the rounded weight, so that what its rounding does to a large common offset cancels.
    bias = (offset - weight.double() @ moments.mean).float()
    return LinearProbe(weight, bias, {name: setting, **selected}, selected_on), classes


def _held_out_accuracies(
    features: torch.Tensor,
    members: torch.Tensor,
    held_out: torch.Tensor,
    moments: Moments,
    solve: Callable[[Moments], Solution],
    settings: Sequence[float],
) -> list[float]:
    spread = float(moments.within.diagonal().mean() / moments.counts.sum())
    scale = math.sqrt(spread) if spread > 0 else 1.0
    dtype = torch.promote_types(features.dtype, torch.float32)
    samples = Samples(features, members, moments.mean.to(dtype), torch.tensor(scale, dtype=dtype))
    solution = solve(moments)
    rows = [torch.cat([weight * scale, offset[:, None]], dim=1) for weight, offset in map(solution, settings)]
    accuracies: list[float] = evaluate(Blocks.of(samples, held_out), torch.stack(rows).float())[0].tolist()
    return accuracies


def read(task: Task, fitted: tuple[LinearProbe, torch.Tensor], start: float) -> ProbeResult:
    """The result of a classifier from `fit` on the test split."""
    probe, classes = fitted
    predictions = classes[probe.logits(task.test_features).argmax(dim=1)]
    return read_test(task, predictions, start, selected=probe.selected, selected_on=probe.selected_on)
