"""The nearest-mean probe."""

from __future__ import annotations

import time

import torch

from ood_nc.arrays import ArrayLike
from ood_nc.transfer.registry import PROBES
from ood_nc.transfer.result import ROWS_AT_ONCE, ProbeResult, check_task, read_test


def nearest_mean_probe(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    test_features: ArrayLike,
    test_labels: ArrayLike,
    *,
    seed: int = 0,
) -> ProbeResult:
    """Classify each test sample by the nearest mean of a training class, in Euclidean distance. Nothing is chosen.

    Args:
        train_features: (N, d).
        train_labels: (N,) class indices.
        test_features: (M, d).
        test_labels: (M,).
        seed: without effect; every probe takes one.

    Raises:
        UserError: the splits do not fit.

    Example:
        >>> from ood_nc.transfer import nearest_mean_probe
        >>> train, train_labels = [[0.0], [1.0], [10.0], [11.0]], [0, 0, 1, 1]
        >>> nearest_mean_probe(train, train_labels, [[3.0], [8.0]], [0, 1]).predictions.tolist()
        [0, 1]
    """
    start = time.perf_counter()
    task = check_task(train_features, train_labels, test_features, test_labels)
    predictions = predict_by_means(task.train_features, task.train_labels, task.test_features)
    return read_test(task, predictions, start)


PROBES.add("nearest_mean", nearest_mean_probe)


def predict_by_means(features: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """Class of the nearest class mean of ``features`` for each query, in float64, blocks of queries at a time."""
    classes, members = labels.unique(return_inverse=True)
    sums = torch.zeros(len(classes), features.shape[1], dtype=torch.float64, device=features.device)
    for rows, owners in zip(features.split(ROWS_AT_ONCE), members.split(ROWS_AT_ONCE), strict=True):
        sums.index_add_(0, owners, rows.double())
    means = sums / members.bincount()[:, None]
    centre = means.mean(dim=0)  # distances do not change, and a common offset costs no digits
    means = means - centre
    offsets = means.square().sum(dim=1) / 2
    nearest = [((part.double() - centre) @ means.T - offsets).argmax(dim=1) for part in queries.split(ROWS_AT_ONCE)]
    predictions: torch.Tensor = classes[torch.cat(nearest)]
    return predictions
