"""Few-shot transfer: the nearest-mean probe on a few training images of each class, over several draws."""

from __future__ import annotations

import math
import time

import torch
from scipy.special import stdtrit

from ood_nc.arrays import ArrayLike, without_autocast
from ood_nc.errors import UserError
from ood_nc.transfer._stratify import shuffle_classes
from ood_nc.transfer.means import predict_by_means
from ood_nc.transfer.registry import PROBES, Probe
from ood_nc.transfer.result import ProbeResult, by_class, check_task

SHOTS = (1, 5, 10)


@without_autocast()
def few_shot(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    test_features: ArrayLike,
    test_labels: ArrayLike,
    *,
    shots: int = 5,
    draws: int = 10,
    seed: int = 0,
) -> ProbeResult:
    """Classify by the nearest mean of ``shots`` training samples a class, drawn ``draws`` times.

    The nearest mean, because it has nothing to choose: a few samples leave none to hold out. Usual are 1, 5 and 10
    shots. The accuracy is the mean over draws, its interval Student's over draws: how much it depends on which
    images one happens to have, for this test split.

    Args:
        train_features: (N, d).
        train_labels: (N,) class indices.
        test_features: (M, d).
        test_labels: (M,).
        shots: training samples a class, without replacement.
        draws: at least 2.
        seed: of the draws.

    Returns:
        A result whose predictions and correct are (draws, M).

    Raises:
        UserError: a class has fewer than ``shots`` samples, ``shots`` or ``draws`` is too small, or the splits do
            not fit.

    Example:
        >>> from ood_nc.transfer import few_shot
        >>> train, train_labels = [[0.0], [1.0], [10.0], [11.0]], [0, 0, 1, 1]
        >>> few_shot(train, train_labels, [[3.0], [8.0]], [0, 1], shots=1, draws=3).accuracy
        1.0
    """
    start = time.perf_counter()
    task = check_task(train_features, train_labels, test_features, test_labels)
    if shots < 1 or draws < 2:
        raise UserError(f"shots must be at least 1 and draws at least 2, got {shots} and {draws}.")
    classes, counts = task.train_labels.unique(return_counts=True)
    if int(counts.min()) < shots:
        fewest = int(counts.argmin())
        raise UserError(
            f"shots is {shots}, but class {int(classes[fewest])} has {int(counts[fewest])} training samples."
        )
    generator = torch.Generator().manual_seed(seed)
    shuffles = [shuffle_classes(task.train_labels, generator) for _ in range(draws)]
    drawn = [shuffle.indices[shuffle.places < shots] for shuffle in shuffles]
    predictions = torch.stack(
        [predict_by_means(task.train_features[some], task.train_labels[some], task.test_features) for some in drawn]
    )
    correct = predictions == task.test_labels
    accuracies = correct.double().mean(dim=1)
    mean = float(accuracies.mean())
    half = float(stdtrit(draws - 1, 0.975)) * float(accuracies.std()) / math.sqrt(draws)
    return ProbeResult(
        accuracy=mean,
        predictions=predictions,
        correct=correct,
        low=max(0.0, mean - half),
        high=min(1.0, mean + half),
        n=correct.shape[1],
        seconds=time.perf_counter() - start,
        selected={"shots": shots, "draws": draws},
        unseen=task.unseen,
        per_class=by_class(correct, task.test_labels),
    )


def _family(count: int) -> Probe:
    def probe(*task: ArrayLike, seed: int = 0) -> ProbeResult:
        return few_shot(*task, shots=count, seed=seed)

    probe.__name__ = f"few_shot_{count}"
    images = "image" if count == 1 else "images"
    probe.__doc__ = f"Classify by the nearest mean of {count} training {images} a class, over 10 draws. See `few_shot`."
    return probe


for _shots in SHOTS:
    PROBES.add(f"few_shot_{_shots}", _family(_shots))
