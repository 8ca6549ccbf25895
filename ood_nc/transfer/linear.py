"""The linear probe by the strict protocol: everything chosen on a split held out of train, test read once."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ood_nc.arrays import ArrayLike, as_matrix, without_autocast
from ood_nc.errors import UserError
from ood_nc.transfer._softmax_regression import Blocks, Curvature, curvature_of, evaluate, minimise, standardise
from ood_nc.transfer._stratify import hold_out
from ood_nc.transfer.registry import PROBES
from ood_nc.transfer.result import ROWS_AT_ONCE, ProbeResult, check_split, check_task, read_test

HELD_OUT = 0.2
PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
CHOOSING, FITTING = 1e-3, 1e-6
"""How far from its minimum the objective may be, in nats: while the penalty is chosen, and in the end."""


@dataclass(frozen=True)
class LinearProbe:
    """A fitted linear classifier of raw features.

    Attributes:
        weight: (C, d) float32.
        bias: (C,) float32.
        selected: the penalty, and the held-out accuracy that chose it.
        selected_on: ``held out of train``; None where no class had a second sample to hold out, so that the
            middle penalty was taken.

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

    @without_autocast()
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


@without_autocast()
def linear_probe(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    test_features: ArrayLike,
    test_labels: ArrayLike,
    *,
    seed: int = 0,
    penalties: Sequence[float] = PENALTIES,
) -> ProbeResult:
    """Fit a linear classifier on the training features and read the test split once. See `fit_linear_probe`.

    Args:
        train_features: (N, d).
        train_labels: (N,) class indices.
        test_features: (M, d).
        test_labels: (M,).
        seed: of the held-out split.
        penalties: those to choose among.

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
    probe = fit_linear_probe(task.train_features, task.train_labels, seed=seed, penalties=penalties)
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


@without_autocast()
def fit_linear_probe(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    *,
    num_classes: int | None = None,
    seed: int = 0,
    penalties: Sequence[float] = PENALTIES,
) -> LinearProbe:
    """Fit softmax regression to the optimum: the mean cross-entropy + penalty / 2 * |W|^2, by L-BFGS.

    Features are centred and divided by one number, the root of their mean variance, so that one set of penalties fits
    taps of any scale; one number, for all dimensions alike, leaves the geometry of features and weights as it is.
    Weight and bias act on raw features. A penalty p of N samples is scikit-learn's ``C = 1 / (p N)`` on such features.

    A stratified fifth of the samples is held out (no sample of a class that has one only). From the largest penalty on,
    each fit starts from the one before, until held-out accuracy and cross-entropy have both got worse. The penalty with
    the best held-out accuracy, at a tie the lowest held-out cross-entropy, is then fitted on all samples. A class
    without samples is a class like any other, learned to be improbable.

    Args:
        train_features: (N, d).
        train_labels: (N,) class indices.
        num_classes: C; the largest label + 1 when not given.
        seed: of the held-out split. The global random state is not touched.
        penalties: those to choose among.

    Raises:
        UserError: fewer than two classes, labels outside ``num_classes``, features that are empty or not finite.

    Source: the protocol of Kornblith, Shlens, Le, "Do Better ImageNet Models Transfer Better?", CVPR 2019, appendix;
    preconditioned L-BFGS as in Nocedal, Wright, "Numerical Optimization", 2006, algorithm 7.4.

    Example:
        >>> from ood_nc.transfer import fit_linear_probe
        >>> train, train_labels = [[0.0], [1.0], [10.0], [11.0]], [0, 0, 1, 1]
        >>> probe = fit_linear_probe(train, train_labels)
        >>> probe.logits([[3.0], [8.0]]).argmax(dim=1).tolist()
        [0, 1]
    """
    features, labels = check_split(train_features, train_labels, "train")
    count = _count_classes(labels, num_classes)
    if not penalties or min(penalties) <= 0:
        raise UserError("penalties must hold a value, and positive ones alone.")
    path = sorted(penalties, reverse=True)
    samples = standardise(features, labels)
    kept, held_out = hold_out(labels, HELD_OUT, seed)
    blocks = Blocks.of(samples, torch.cat([kept, held_out]))
    curvature = curvature_of(blocks)
    parameters = torch.zeros(count, features.shape[1] + 1, device=labels.device)
    penalty, selected = path[len(path) // 2], dict[str, float]()
    if len(held_out):
        parts = blocks.part(slice(len(kept))), blocks.part(slice(len(kept), None))
        penalty, parameters, selected = _choose(*parts, path, parameters, curvature)
    parameters = minimise(blocks, parameters, penalty, curvature, FITTING)
    weight = (parameters[:, :-1] / samples.scale).float()
    # From the rounded weight, so that what its rounding does to a large common offset cancels.
    bias = (parameters[:, -1].double() - weight.double() @ samples.mean.double()).float()
    return LinearProbe(weight, bias, {"penalty": penalty, **selected}, "held out of train" if len(held_out) else None)


def _count_classes(labels: torch.Tensor, num_classes: int | None) -> int:
    smallest, largest = int(labels.min()), int(labels.max())
    if smallest == largest:
        raise UserError(f"A linear probe needs two classes, train_labels holds only class {largest}.")
    if num_classes is not None and largest >= num_classes:
        raise UserError(f"train_labels holds class {largest}, but num_classes is {num_classes}.")
    return largest + 1 if num_classes is None else num_classes


def _choose(
    kept: Blocks, held_out: Blocks, path: Sequence[float], parameters: torch.Tensor, curvature: Curvature
) -> tuple[float, torch.Tensor, dict[str, float]]:
    """The penalty with the best held-out accuracy, at a tie the lowest held-out loss, and the parameters at it."""
    best, before = ((-1.0, 0.0), path[0], parameters), (-1.0, -math.inf)
    for penalty in path:
        parameters = minimise(kept, parameters, penalty, curvature, CHOOSING)
        accuracy, loss = (float(value) for value in evaluate(held_out, parameters[None]))
        best = max(best, ((accuracy, -loss), penalty, parameters), key=lambda one: one[0])
        if accuracy < before[0] and -loss < before[1]:
            break
        before = accuracy, -loss
    (accuracy, _), penalty, parameters = best
    return penalty, parameters, {"held_out_accuracy": accuracy}
