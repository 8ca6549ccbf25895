"""The probe by linear discriminant analysis."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from ood_nc.arrays import ArrayLike, without_autocast
from ood_nc.transfer._closed_form import Moments, Solution, fit, read
from ood_nc.transfer.registry import PROBES
from ood_nc.transfer.result import ProbeResult, check_task

SHRINKAGES = (1e-4, 1e-3, 1e-2, 0.1, 0.3, 0.6, 0.9)


@without_autocast()
def lda_probe(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    test_features: ArrayLike,
    test_labels: ArrayLike,
    *,
    seed: int = 0,
    shrinkages: Sequence[float] = SHRINKAGES,
) -> ProbeResult:
    """Classify by the likeliest of Gaussians with one covariance, shrunk towards a multiple of the identity.

    Class shares of the training samples are the priors. The shrinkage is chosen on a stratified fifth held out of the
    training samples, all of them from one eigen-decomposition; the classifier is then that of all samples.

    Args:
        train_features: (N, d).
        train_labels: (N,) class indices.
        test_features: (M, d).
        test_labels: (M,).
        seed: of the held-out split.
        shrinkages: those to choose among, in (0, 1]: the weight of the identity times the mean variance.

    Raises:
        UserError: fewer than two classes, or splits that do not fit each other.

    Source: Friedman, "Regularized Discriminant Analysis", JASA 1989 (gamma, with the covariances pooled).

    Example:
        >>> from ood_nc.transfer import lda_probe
        >>> train, train_labels = [[0.0], [1.0], [10.0], [11.0]], [0, 0, 1, 1]
        >>> lda_probe(train, train_labels, [[3.0], [8.0]], [0, 1]).accuracy
        1.0
    """
    start = time.perf_counter()
    task = check_task(train_features, train_labels, test_features, test_labels)
    return read(task, fit(task.train_features, task.train_labels, solve, "shrinkage", shrinkages, seed), start)


PROBES.add("lda", lda_probe)


def solve(moments: Moments) -> Solution:
    """The discriminants for any shrinkage."""
    counts, gaps = moments.counts, moments.means - moments.mean
    values, vectors = torch.linalg.eigh(moments.within / counts.sum())
    unit = float(values.mean()) or 1.0
    turned = gaps @ vectors
    priors = (counts / counts.sum()).log()

    def at(shrinkage: float) -> tuple[torch.Tensor, torch.Tensor]:
        weight = (turned / ((1 - shrinkage) * values.clamp_min(0) + shrinkage * unit)) @ vectors.T
        return weight, priors - (weight * gaps).sum(dim=1) / 2

    return at
