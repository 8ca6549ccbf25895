"""The ridge probe: least squares on class indicators."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from ood_nc.arrays import ArrayLike, without_autocast
from ood_nc.transfer._closed_form import Moments, Solution, fit, read
from ood_nc.transfer.registry import PROBES
from ood_nc.transfer.result import ProbeResult, check_task

PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


@without_autocast()
def ridge_probe(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    test_features: ArrayLike,
    test_labels: ArrayLike,
    *,
    seed: int = 0,
    penalties: Sequence[float] = PENALTIES,
) -> ProbeResult:
    """Classify by ridge regression of the class indicators, 1 and -1, on the features (as RidgeClassifier).

    The penalty is chosen on a stratified fifth held out of the training samples, all of them from one
    eigen-decomposition; the classifier is then that of all samples.

    Args:
        train_features: (N, d).
        train_labels: (N,) class indices.
        test_features: (M, d).
        test_labels: (M,).
        seed: of the held-out split.
        penalties: those to choose among, in units of N times the mean variance of a feature.

    Raises:
        UserError: fewer than two classes, or splits that do not fit each other.

    Source: Hoerl, Kennard, "Ridge Regression", Technometrics 1970.

    Example:
        >>> from ood_nc.transfer import ridge_probe
        >>> train, train_labels = [[0.0], [1.0], [10.0], [11.0]], [0, 0, 1, 1]
        >>> ridge_probe(train, train_labels, [[3.0], [8.0]], [0, 1]).accuracy
        1.0
    """
    start = time.perf_counter()
    task = check_task(train_features, train_labels, test_features, test_labels)
    return read(task, fit(task.train_features, task.train_labels, solve, "penalty", penalties, seed), start)


PROBES.add("ridge", ridge_probe)


def solve(moments: Moments) -> Solution:
    """The coefficients for any penalty."""
    counts, gaps = moments.counts, moments.means - moments.mean
    total = moments.within + (gaps * counts[:, None]).T @ gaps
    values, vectors = torch.linalg.eigh(total)
    unit = float(values.mean()) or 1.0
    targets = 2 * (counts[:, None] * gaps) @ vectors

    def at(penalty: float) -> tuple[torch.Tensor, torch.Tensor]:
        weight = (targets / (values.clamp_min(0) + penalty * unit)) @ vectors.T
        return weight, 2 * counts / counts.sum() - 1

    return at
