"""The linear probe of the ICML 2025 code: fixed settings, its accuracy that of the best epoch on the test split."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from ood_nc.arrays import ArrayLike, without_autocast
from ood_nc.errors import UserError
from ood_nc.transfer.result import ProbeResult, check_task, read_test

SELECTED_ON = "test split (the best epoch)"


@dataclass(frozen=True)
class PaperSettings:
    """What the probe is trained with; the defaults are those for convolutional networks.

    Example:
        >>> from ood_nc.transfer import PaperSettings
        >>> PaperSettings(learning_rate=0.01).epochs
        30
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    batch_size: int = 256
    epochs: int = 30
    smoothing: float = 0.1


CNN_PROBE = PaperSettings()
VIT_PROBE = PaperSettings(learning_rate=0.01, weight_decay=1e-4, batch_size=2048)


@without_autocast()
def paper_probe(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    test_features: ArrayLike,
    test_labels: ArrayLike,
    *,
    settings: PaperSettings = CNN_PROBE,
    seed: int = 0,
) -> ProbeResult:
    """Fit a linear classifier on raw features by AdamW at a constant rate, and read the test split after every epoch.

    The accuracy, its interval and the predictions are those of the epoch that is best **on the test split**, as
    published numbers are (``selected_on`` says so); `linear_probe` has the honest one. Weight and bias are those of the
    last epoch: their energy is the detection score of the same protocol.

    Args:
        train_features: (N, d).
        train_labels: (N,) class indices.
        test_features: (M, d).
        test_labels: (M,).
        settings: `CNN_PROBE`, or `VIT_PROBE` for vision transformers.
        seed: of the initial weights and the order of the batches. The global random state is not touched.

    Raises:
        UserError: fewer than two classes, or splits that do not fit each other.

    Source: released code of Harun, Gallardo, Kanan, ICML 2025 (arXiv 2502.10691).

    Example:
        >>> from ood_nc.transfer import PaperSettings, paper_probe
        >>> train, train_labels = [[0.0, 9.0], [1.0, 8.0], [9.0, 0.0], [8.0, 1.0]], [0, 0, 1, 1]
        >>> settings = PaperSettings(learning_rate=0.1)
        >>> paper_probe(train, train_labels, [[2.0, 7.0], [7.0, 2.0]], [0, 1], settings=settings).accuracy
        1.0
    """
    start = time.perf_counter()
    task = check_task(train_features, train_labels, test_features, test_labels)
    if int(task.train_labels.min()) == int(task.train_labels.max()):
        raise UserError(f"A linear probe needs two classes, train_labels holds only class {int(task.train_labels[0])}.")
    features, test = task.train_features, task.test_features.float()
    generator = torch.Generator().manual_seed(seed)
    head = _head(features.shape[1], int(task.train_labels.max()) + 1, generator).to(features.device)
    optimizer = torch.optim.AdamW(head.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    best = -1, 0, task.test_labels
    for epoch in range(1, settings.epochs + 1):
        order = torch.randperm(len(features), generator=generator).to(features.device)
        for batch in order.split(settings.batch_size):
            logits = head(features[batch].float())
            loss = F.cross_entropy(logits, task.train_labels[batch], label_smoothing=settings.smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            predictions = head(test).argmax(dim=1)
        right = int((predictions == task.test_labels).sum())
        if right > best[0]:
            best = right, epoch, predictions
    return read_test(
        task,
        best[2],
        start,
        selected={"epoch": best[1]},
        selected_on=SELECTED_ON,
        weight=head.weight.detach(),
        bias=head.bias.detach(),
    )


def _head(columns: int, rows: int, generator: torch.Generator) -> nn.Linear:
    """A linear map as torch initialises it, drawn from ``generator``."""
    head: nn.Linear = nn.utils.skip_init(nn.Linear, columns, rows)
    bound = columns**-0.5
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_((2 * torch.rand(parameter.shape, generator=generator) - 1) * bound)
    return head
