"""How one GraphConv layer changes the traces of the class covariances: the paper's prediction and its bounds."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ood_nc.collapse import ClassStatistics
from ood_nc.graphs.block_model import BlockModel


class TraceBounds(NamedTuple):
    """tr Sigma' / tr Sigma across one layer, before its ReLU: predicted, and the bounds on it from spectra alone."""

    predicted: float
    low: float
    high: float


def trace_bounds(
    model: BlockModel, stats: ClassStatistics, own: Tensor | None, neighbours: Tensor
) -> tuple[TraceBounds, TraceBounds]:
    """The ratios for Sigma_B and for Sigma_W of X' = X W1' + E[A^] X W2', with the expected graph in place of A^.

    For two classes the paper's theorem 3.3; with C classes b1 = (p - q)/s, b2 = p/(n s), b3 = (p^2 + (C - 1) q^2)/
    (n s^2), s = p + (C - 1) q. T_B = (W1 + b1 W2)'(W1 + b1 W2) and T_W = W1'W1 + b2 (W2'W1 + W1'W2) + b3 W2'W2 give
    tr Sigma_B' = tr(T_B Sigma_B) and E tr Sigma_W' = tr(T_W Sigma_W), for features that are independent between nodes
    and equally spread in all classes. Sigma_W' is about the population's class means; about those of the sample the
    aggregated term cancels, and a sampled graph adds about 1/degree of it back: measured ratios differ from these.

    Args:
        model: of the graphs.
        stats: of the layer's input X.
        own: W1 (out, in), None without.
        neighbours: W2 (out, in).

    Returns:
        For Sigma_B, and for Sigma_W.
    """
    p, q = model.realised
    n, others = model.community_size, model.communities - 1
    total = p + others * q
    b1, b2, b3 = (p - q) / total, p / (n * total), (p**2 + others * q**2) / (n * total**2)
    w2 = neighbours.double()
    w1 = torch.zeros_like(w2) if own is None else own.double()
    between = (w1 + b1 * w2).T @ (w1 + b1 * w2)
    cross = w2.T @ w1
    within = w1.T @ w1 + b2 * (cross + cross.T) + b3 * w2.T @ w2
    return _bounds(between, stats.between), _bounds(within, stats.within)


def _bounds(operator: Tensor, covariance: Tensor) -> TraceBounds:
    """tr(T S)/tr S, and what it can be for any rotation of T against S (Ruhe's trace inequality)."""
    a, b = torch.linalg.eigvalsh(operator), torch.linalg.eigvalsh(covariance)
    trace = covariance.trace()
    values = [(operator * covariance).sum() / trace, (a * b.flip(0)).sum() / trace, (a * b).sum() / trace]
    return TraceBounds(*(float(value) for value in values))
