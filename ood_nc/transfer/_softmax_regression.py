"""Softmax regression by AdamW, for a whole grid of settings at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from ood_nc.transfer.result import ROWS_AT_ONCE

BATCH_SIZE = 256
SMOOTHING = 0.1
FIRST_MOMENT, SECOND_MOMENT, EPSILON = 0.9, 0.999, 1e-8


class Setting(NamedTuple):
    """One point of the grid."""

    learning_rate: float
    weight_decay: float


class Samples(NamedTuple):
    """Features with the centre and the one scale that standardise them, and labels."""

    features: torch.Tensor
    labels: torch.Tensor
    mean: torch.Tensor
    scale: torch.Tensor

    def rows(self, indices: torch.Tensor) -> torch.Tensor:
        """The standardised features of some samples, float32; made when asked for, so no copy of all is held."""
        return ((self.features[indices].to(self.mean.dtype) - self.mean) / self.scale).float()


def standardise(features: torch.Tensor, labels: torch.Tensor) -> Samples:
    """Measure the mean of each dimension and the root of the mean variance over dimensions, in float64."""
    parts = features.split(ROWS_AT_ONCE)
    mean = torch.stack([part.double().sum(dim=0) for part in parts]).sum(dim=0) / len(features)
    mean = mean.to(torch.promote_types(features.dtype, torch.float32))
    variance = torch.stack([(part.double() - mean.double()).square().sum() for part in parts]).sum() / features.numel()
    # Features that are all alike have no scale; then any does, as they tell nothing apart.
    scale = torch.where(variance > 0, variance.sqrt(), 1.0).to(mean.dtype)
    return Samples(features, labels, mean, scale)


def train(
    samples: Samples,
    indices: torch.Tensor,
    num_classes: int,
    settings: Sequence[Setting],
    epochs: int,
    seed: int,
) -> Iterator[torch.Tensor]:
    """Yield, after each epoch, the parameters of every setting: (settings, classes, d + 1), the bias last.

    All settings see the same batches, so that their weights stack into one matrix and a step costs two matrix
    products, whatever their number. Starts from zero: the problem is convex, and nothing is left to chance but the
    order of the samples. The tensor is reused; copy what is to be kept.
    """
    dim, device = samples.features.shape[1], samples.features.device
    rates = _per_row([setting.learning_rate for setting in settings], num_classes, device)
    decays = _per_row([setting.weight_decay for setting in settings], num_classes, device)
    parameters = torch.zeros(len(rates), dim + 1, device=device)
    slope, first, second = (torch.zeros_like(parameters) for _ in range(3))
    generator = torch.Generator().manual_seed(seed)
    batches = math.ceil(len(indices) / BATCH_SIZE)
    step = 0
    for _ in range(epochs):
        order = indices[torch.randperm(len(indices), generator=generator).to(device)]
        for batch in order.tensor_split(batches):
            rows = samples.rows(batch)
            errors = _errors(_logits(parameters, rows), samples.labels[batch], num_classes)
            torch.mm(errors.T, rows, out=slope[:, :dim])
            slope[:, dim] = errors.sum(dim=0)
            step += 1
            first.lerp_(slope, 1 - FIRST_MOMENT)
            second.mul_(SECOND_MOMENT).addcmul_(slope, slope, value=1 - SECOND_MOMENT)
            spread = (second / (1 - SECOND_MOMENT**step)).sqrt_().add_(EPSILON)
            parameters.mul_(1 - rates * decays)
            parameters.addcmul_(first / spread, rates, value=-1 / (1 - FIRST_MOMENT**step))
        yield parameters.view(len(settings), num_classes, dim + 1)


def evaluate(samples: Samples, indices: torch.Tensor, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Accuracy and mean cross-entropy of each setting on some samples, both (settings,)."""
    settings, num_classes, _ = parameters.shape
    right, loss = torch.zeros(2, settings, device=parameters.device, dtype=torch.float64)
    for part in indices.split(ROWS_AT_ONCE):
        logits = _logits(parameters.flatten(0, 1), samples.rows(part)).view(len(part), settings, num_classes)
        wanted = samples.labels[part][:, None]
        right += (logits.argmax(dim=2) == wanted).sum(dim=0)
        chosen = logits.gather(2, wanted[:, None].expand(-1, settings, 1)).squeeze(2)
        loss += (logits.logsumexp(dim=2) - chosen).sum(dim=0)
    return right / len(indices), loss / len(indices)


def _per_row(values: Sequence[float], num_classes: int, device: torch.device) -> torch.Tensor:
    return torch.tensor(values, device=device).repeat_interleave(num_classes)[:, None]


def _logits(parameters: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return torch.addmm(parameters[:, -1], rows, parameters[:, :-1].T)


def _errors(logits: torch.Tensor, labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Slope of the smoothed cross-entropy, the mean over the batch, with respect to the logits of every setting."""
    errors = logits.view(len(logits), -1, num_classes).softmax(dim=2)
    errors -= SMOOTHING / num_classes
    errors[torch.arange(len(labels), device=labels.device), :, labels] -= 1 - SMOOTHING
    return errors.view_as(logits).div_(len(logits))
