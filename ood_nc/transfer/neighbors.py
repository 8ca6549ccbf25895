"""The k-nearest-neighbour probe: cosine similarity, votes weighted by a temperature."""

from __future__ import annotations

import time

import torch

from ood_nc.arrays import ArrayLike, without_autocast
from ood_nc.errors import UserError
from ood_nc.transfer.registry import PROBES
from ood_nc.transfer.result import ROWS_AT_ONCE, ProbeResult, check_task, read_test

SIMILARITIES_AT_ONCE, QUERIES_AT_ONCE, KEYS_AT_ONCE = 2**25, 2**14, 2**13


@without_autocast()
def knn_probe(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    test_features: ArrayLike,
    test_labels: ArrayLike,
    *,
    k: int = 20,
    temperature: float = 0.07,
    seed: int = 0,
) -> ProbeResult:
    """Classify each test sample by its ``k`` most similar training samples, each voting exp(cosine / temperature).

    The search is exact and runs on the device of the features, block by block, so that memory does not grow with
    the number of pairs. An all-zero feature has cosine 0 with everything. Nothing is chosen.

    Args:
        train_features: (N, d).
        train_labels: (N,) class indices.
        test_features: (M, d).
        test_labels: (M,).
        k: number of neighbours.
        temperature: the smaller, the more the closest decide.
        seed: without effect; every probe takes one.

    Raises:
        UserError: ``k`` is not between 1 and N, ``temperature`` not positive, or the splits do not fit.

    Source: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018.

    Example:
        >>> from ood_nc.transfer import knn_probe
        >>> knn_probe([[1.0, 0.0], [0.0, 1.0]], [0, 1], [[2.0, 1.0], [1.0, 3.0]], [0, 1], k=1).accuracy
        1.0
    """
    start = time.perf_counter()
    task = check_task(train_features, train_labels, test_features, test_labels)
    size = len(task.train_features)
    if not 1 <= k <= size:
        raise UserError(f"k is {k}, but there are {size} training samples: choose k between 1 and {size}.")
    if not temperature > 0:
        raise UserError(f"temperature must be positive, got {temperature}.")
    predictions = _vote(task.train_features, task.train_labels, task.test_features, k, temperature)
    return read_test(task, predictions, start, selected={"k": k, "temperature": temperature})


PROBES.add("knn", knn_probe)


def _vote(bank: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor, k: int, temperature: float) -> torch.Tensor:
    total = bank.new_zeros(bank.shape[1], dtype=torch.float64)
    centre = sum((_unit(part).sum(dim=0) for part in bank.split(ROWS_AT_ONCE)), total) / len(bank)
    num_classes = int(labels.max()) + 1
    predictions = []
    for part in queries.split(QUERIES_AT_ONCE):
        query = _centred(part, centre)
        query[:, -1] = 1
        similarities, neighbors = _most_similar(query, bank, centre, k)
        votes = ((similarities - similarities[:, :1]) / temperature).exp()
        totals = torch.zeros(len(part), num_classes, device=bank.device)
        predictions.append(totals.scatter_add_(1, labels[neighbors], votes).argmax(dim=1))
    return torch.cat(predictions)


def _most_similar(
    query: torch.Tensor, bank: torch.Tensor, centre: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Similarities and numbers of each query's ``k`` rows (B, k); keys are made a block at a time."""
    best, found = query.new_empty(len(query), 0), torch.empty(len(query), 0, dtype=torch.long, device=query.device)
    step = min(KEYS_AT_ONCE, max(1, SIMILARITIES_AT_ONCE // len(query)))
    for start in range(0, len(bank), step):
        keys = torch.cat([_centred(part, centre) for part in bank[start : start + step].split(ROWS_AT_ONCE)])
        nearest = (query @ keys.T).topk(min(k, len(keys)), dim=1)
        best, found = torch.cat([best, nearest.values], dim=1), torch.cat([found, nearest.indices + start], dim=1)
        best, order = best.topk(min(k, best.shape[1]), dim=1)
        found = found.gather(1, order)
    return best, found


def _unit(rows: torch.Tensor) -> torch.Tensor:
    """Unit rows in float64; a zero row stays zero."""
    rows = rows.double()
    norms: torch.Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / norms.clamp(min=torch.finfo(torch.float32).tiny)


def _centred(rows: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    """Unit rows minus ``centre``, and in a last column what that took from their product with the centre.

    With q' = [q - c, 1] and v' = [v - c, (v - c) . c], q' . v' = q . v - q . c: the cosine less a constant of the
    query. Features with a large common offset differ in the cosine's last digits, which float32 keeps this way.
    """
    moved = _unit(rows) - centre
    return torch.cat([moved, (moved @ centre)[:, None]], dim=1).float()
