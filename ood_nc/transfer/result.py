"""What every probe returns, and the checks at its door."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import NamedTuple

import torch

from ood_nc.accumulate import largest_magnitude
from ood_nc.arrays import ArrayLike, as_labels, as_matrix
from ood_nc.errors import UserError

LARGEST = 1e30
"""Beyond it float32 has no room for differences of features."""
ROWS_AT_ONCE = 4096
"""Rows that are converted or compared at once, so that no probe holds a second copy of large features."""


@dataclass(frozen=True)
class ProbeResult:
    """The outcome of a probe on one test split.

    Attributes:
        accuracy: share of test samples that are right, in [0, 1].
        predictions: class of each test sample, int64 (n,); of few-shot probes (draws, n).
        correct: whether it is right, bool, of the same shape. A test sample of a class without training samples
            is wrong, whatever is predicted.
        low, high: 95 % interval of the accuracy. Wilson's, over test samples; of few-shot probes Student's, over
            draws of the training images.
        n: number of test samples.
        seconds: time it took.
        selected: the hyper-parameters, and whatever else was chosen.
        selected_on: the split that chose them; None where nothing was chosen.
        unseen: number of test samples whose class has no training sample.
        per_class: accuracy on the test samples of each class, by class; of few-shot probes the mean over draws.
        weight, bias: of linear probes, (C, d) and (C,); logits = features @ weight.T + bias.

    Example:
        >>> from ood_nc.transfer import nearest_mean_probe
        >>> train, train_labels = [[0.0], [1.0], [10.0], [11.0]], [0, 0, 1, 1]
        >>> result = nearest_mean_probe(train, train_labels, [[3.0], [8.0]], [0, 0])
        >>> result.correct.tolist(), result.accuracy, result.n
        ([True, False], 0.5, 2)
    """

    accuracy: float
    predictions: torch.Tensor
    correct: torch.Tensor
    low: float
    high: float
    n: int
    seconds: float
    selected: dict[str, float | int | str] = field(default_factory=dict)
    selected_on: str | None = None
    unseen: int = 0
    per_class: dict[int, float] = field(default_factory=dict)
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None

    @property
    def balanced_error(self) -> float | None:
        """1 - mean of ``per_class``: every class of the test split counts the same; None where those are not given."""
        return 1 - sum(self.per_class.values()) / len(self.per_class) if self.per_class else None


class Task(NamedTuple):
    """Checked features and labels of a training and a test split, all on one device."""

    train_features: torch.Tensor
    train_labels: torch.Tensor
    test_features: torch.Tensor
    test_labels: torch.Tensor
    unseen: int


def check_task(
    train_features: ArrayLike, train_labels: ArrayLike, test_features: ArrayLike, test_labels: ArrayLike
) -> Task:
    """Return both splits as tensors on the device of the training features.

    Raises:
        UserError: an empty split, shapes that do not fit, negative labels, NaN or infinity, or no test sample of
            any training class.

    Example:
        >>> from ood_nc.transfer import check_task
        >>> train, train_labels = [[0.0], [1.0], [10.0], [11.0]], [0, 0, 1, 1]
        >>> check_task(train, train_labels, [[3.0]], [5])
        Traceback (most recent call last):
        ood_nc.errors.UserError: No class of test_labels (such as 5) is among train_labels: ...
    """
    train, labels = check_split(train_features, train_labels, "train")
    test, wanted = check_split(test_features, test_labels, "test")
    if train.shape[1] != test.shape[1]:
        raise UserError(
            f"train_features has {train.shape[1]} dimensions and test_features {test.shape[1]}: take both from one tap."
        )
    test, wanted = test.to(train.device), wanted.to(train.device)
    unseen = int((~torch.isin(wanted, labels)).sum())
    if unseen == len(wanted):
        raise UserError(
            f"No class of test_labels (such as {int(wanted[0])}) is among train_labels: number the classes of both "
            "splits alike."
        )
    return Task(train, labels, test, wanted, unseen)


def check_split(features: ArrayLike, labels: ArrayLike, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features (N, d) and labels (N,) of one split, on the device of the features."""
    rows = as_matrix(features, f"{split}_features")
    classes = as_labels(labels, len(rows), f"{split}_labels").to(rows.device)
    if len(rows) == 0 or rows.shape[1] == 0:
        raise UserError(f"{split}_features is empty, of shape {tuple(rows.shape)}: a probe needs samples.")
    if not largest_magnitude(rows) <= LARGEST:
        bad = sum(int((~(part.abs() <= LARGEST)).any(dim=1).sum()) for part in rows.split(ROWS_AT_ONCE))
        raise UserError(
            f"{split}_features has NaN, infinity or numbers beyond {LARGEST:g} in {bad} of {len(rows)} rows: leave "
            "those out, or scale the features."
        )
    return rows, classes


def read_test(
    task: Task,
    predictions: torch.Tensor,
    start: float,
    *,
    selected: dict[str, float | int | str] | None = None,
    selected_on: str | None = None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> ProbeResult:
    """Compare one prediction a test sample with its label; ``start`` is the `time.perf_counter` of the beginning.

    Example:
        >>> import time
        >>> import torch
        >>> from ood_nc.transfer import check_task, read_test
        >>> start = time.perf_counter()
        >>> task = check_task([[0.0], [1.0]], [0, 1], [[0.2], [0.9]], [0, 1])
        >>> read_test(task, torch.tensor([0, 0]), start).accuracy
        0.5
    """
    correct = predictions == task.test_labels
    right, n = int(correct.sum()), len(correct)
    low, high = wilson_interval(right, n)
    return ProbeResult(
        accuracy=right / n,
        predictions=predictions,
        correct=correct,
        low=low,
        high=high,
        n=n,
        seconds=time.perf_counter() - start,
        selected=selected or {},
        selected_on=selected_on,
        unseen=task.unseen,
        per_class=by_class(correct, task.test_labels),
        weight=weight,
        bias=bias,
    )


def by_class(correct: torch.Tensor, labels: torch.Tensor) -> dict[int, float]:
    """The share of right answers (..., M) on the test samples of each class, by class.

    Example:
        >>> by_class(torch.tensor([True, False, True]), torch.tensor([0, 0, 4]))
        {0: 0.5, 4: 1.0}
    """
    classes, members = labels.unique(return_inverse=True)
    right = correct.double().reshape(-1, len(labels)).mean(dim=0)
    shares = torch.zeros(len(classes), dtype=torch.float64, device=labels.device).index_add_(0, members, right)
    return dict(zip(classes.tolist(), (shares / members.bincount()).tolist(), strict=True))


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (1927): inside [0, 1], and never empty, at 0 and at ``n`` too.

    Example:
        >>> from ood_nc.transfer import wilson_interval
        >>> low, high = wilson_interval(10, 10)
        >>> round(low, 3), high
        (0.722, 1.0)
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
