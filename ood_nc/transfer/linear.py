"""The linear probe by the strict protocol: everything chosen on a split held out of train, test read once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

import torch

from ood_nc.arrays import ArrayLike, as_matrix
from ood_nc.errors import UserError
from ood_nc.transfer._softmax_regression import Samples, Setting, evaluate, standardise, train
from ood_nc.transfer._stratify import hold_out
from ood_nc.transfer.registry import PROBES
from ood_nc.transfer.result import ROWS_AT_ONCE, ProbeResult, check_split, check_task, read_test

EPOCHS = 30
HELD_OUT = 0.2
LEARNING_RATES = (1e-3, 1e-2, 1e-1)
WEIGHT_DECAYS = (1e-4, 1e-1)


@dataclass(frozen=True)
class LinearProbe:
    """A fitted linear classifier of raw features.

    Attributes:
        weight: (C, d) float32.
        bias: (C,) float32.
        selected: learning rate, weight decay and epoch, and the held-out accuracy that chose them.
        selected_on: ``held out of train``; None where no class had a second sample to hold out, so that the
            middle learning rate, the least weight decay and the last epoch were taken.

    Example:
        >>> import torch
        >>> from ood_nc.transfer import LinearProbe
        >>> LinearProbe(weight=torch.eye(2), bias=torch.zeros(2)).logits([[1.0, 2.0]]).tolist()
        [[1.0, 2.0]]
    """

    weight: torch.Tensor
    bias: torch.Tensor
    selected: dict[str, float | int | str] = field(default_factory=dict)
    selected_on: str | None = None

    def logits(self, features: ArrayLike) -> torch.Tensor:
        """Return features @ weight.T + bias, (N, C), float64 for float64 features, else float32.

        Raises:
            UserError: ``features`` is not (N, d).
        """
        rows = as_matrix(features)
        if rows.shape[1] != self.weight.shape[1]:
            raise UserError(f"features has {rows.shape[1]} dimensions, the probe was fitted on {self.weight.shape[1]}.")
        dtype = torch.promote_types(rows.dtype, torch.float32)
        weight, bias = self.weight.to(rows.device, dtype), self.bias.to(rows.device, dtype)
        return torch.cat([part.to(dtype) @ weight.T + bias for part in rows.split(ROWS_AT_ONCE)])


def linear_probe(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    test_features: ArrayLike,
    test_labels: ArrayLike,
    *,
    seed: int = 0,
    learning_rates: Sequence[float] = LEARNING_RATES,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
) -> ProbeResult:
    """Fit a linear classifier on the training features and read the test split once. See `fit_linear_probe`.

    Args:
        train_features: (N, d).
        train_labels: (N,) class indices.
        test_features: (M, d).
        test_labels: (M,).
        seed: of the held-out split and the order of the batches.
        learning_rates: those to choose among.
        weight_decays: those to choose among.

    Raises:
        UserError: what `fit_linear_probe` raises, or splits that do not fit each other.

    Example:
        >>> from ood_nc.transfer import linear_probe
        >>> train, train_labels = [[0.0], [1.0], [10.0], [11.0]], [0, 0, 1, 1]
        >>> result = linear_probe(train, train_labels, [[3.0], [8.0]], [0, 1])
        >>> result.accuracy, result.n, result.selected_on
        (1.0, 2, 'held out of train')
    """
    start = time.perf_counter()
    task = check_task(train_features, train_labels, test_features, test_labels)
    probe = fit_linear_probe(
        task.train_features,
        task.train_labels,
        seed=seed,
        learning_rates=learning_rates,
        weight_decays=weight_decays,
    )
    return read_test(
        task,
        probe.logits(task.test_features).argmax(dim=1),
        start,
        selected=probe.selected,
        selected_on=probe.selected_on,
        weight=probe.weight,
        bias=probe.bias,
    )


PROBES.add("linear", linear_probe)


def fit_linear_probe(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    *,
    num_classes: int | None = None,
    seed: int = 0,
    learning_rates: Sequence[float] = LEARNING_RATES,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
) -> LinearProbe:
    """Fit softmax regression: AdamW at a constant rate, 30 epochs, batches of 256, label smoothing 0.1.

    A stratified fifth of the samples is held out (no sample of a class that has one only). Every pair of learning
    rate and weight decay is trained on the rest; the pair and the epoch with the best held-out accuracy, at a tie
    the lowest held-out cross-entropy, are then trained anew on all samples. Features are centred and divided by
    one number, the root of their mean variance, so that one set of rates fits taps of any scale; one number, for
    all dimensions alike, leaves the geometry of features and weights as it is. Weight and bias act on raw
    features. A class without samples is a class like any other, learned to be improbable.

    Args:
        train_features: (N, d).
        train_labels: (N,) class indices.
        num_classes: C; the largest label + 1 when not given.
        seed: of the held-out split and the order of the batches. The global random state is not touched.
        learning_rates: those to choose among.
        weight_decays: those to choose among.

    Raises:
        UserError: fewer than two classes, labels outside ``num_classes``, features that are empty or not finite.

    Source: the probe of Harun, Gallardo, Kanan, ICML 2025 (rates 1e-3 and 1e-2, decays 0 and 1e-4), with the
    choice taken from the test split to a held-out one.

    Example:
        >>> from ood_nc.transfer import fit_linear_probe
        >>> train, train_labels = [[0.0], [1.0], [10.0], [11.0]], [0, 0, 1, 1]
        >>> probe = fit_linear_probe(train, train_labels)
        >>> probe.logits([[3.0], [8.0]]).argmax(dim=1).tolist()
        [0, 1]
    """
    features, labels = check_split(train_features, train_labels, "train")
    count = _count_classes(labels, num_classes)
    grid = [Setting(*pair) for pair in product(learning_rates, weight_decays)]
    if not grid:
        raise UserError("learning_rates and weight_decays must each hold a value.")
    samples = standardise(features, labels)
    kept, held_out = hold_out(labels, HELD_OUT, seed)
    if len(held_out):
        setting, epoch, selected = _choose(samples, kept, held_out, count, grid, seed)
    else:
        setting, epoch = Setting(sorted(learning_rates)[len(learning_rates) // 2], min(weight_decays)), EPOCHS
        selected = {}
    everything = torch.arange(len(labels), device=labels.device)
    *_, parameters = train(samples, everything, count, [setting], epoch, seed)
    weight = (parameters[0, :, :-1] / samples.scale).float()
    # From the rounded weight, so that what its rounding does to a large common offset cancels.
    bias = (parameters[0, :, -1].double() - weight.double() @ samples.mean.double()).float()
    chosen = {"learning_rate": setting.learning_rate, "weight_decay": setting.weight_decay, "epoch": epoch}
    return LinearProbe(weight, bias, {**chosen, **selected}, "held out of train" if len(held_out) else None)


def _count_classes(labels: torch.Tensor, num_classes: int | None) -> int:
    smallest, largest = int(labels.min()), int(labels.max())
    if smallest == largest:
        raise UserError(f"A linear probe needs two classes, train_labels holds only class {largest}.")
    if num_classes is not None and largest >= num_classes:
        raise UserError(f"train_labels holds class {largest}, but num_classes is {num_classes}.")
    return largest + 1 if num_classes is None else num_classes


def _choose(
    samples: Samples, kept: torch.Tensor, held_out: torch.Tensor, count: int, grid: list[Setting], seed: int
) -> tuple[Setting, int, dict[str, float]]:
    """The setting and the epoch with the best held-out accuracy; ties go to the lowest held-out loss."""
    best = (-1.0, 0.0, 0, 0)
    for epoch, parameters in enumerate(train(samples, kept, count, grid, EPOCHS, seed), start=1):
        accuracies, losses = evaluate(samples, held_out, parameters)
        for index, (accuracy, loss) in enumerate(zip(accuracies.tolist(), losses.tolist(), strict=True)):
            best = max(best, (accuracy, -loss, -epoch, -index))
    accuracy, _, epoch, index = best
    return grid[-index], -epoch, {"held_out_accuracy": accuracy}
