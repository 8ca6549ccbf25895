"""Loss and accuracy of communities, which have no names: both are the best over the permutations of the labels."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import one_hot


def best_permutation(gain: Tensor) -> Tensor:
    """The permutation pi that maximises sum over c of gain[c, pi(c)], (C,)."""
    return torch.from_numpy(linear_sum_assignment(gain.detach().cpu().double().numpy(), maximize=True)[1])


def match_labels(outputs: Tensor, labels: Tensor) -> Tensor:
    """The labels, renamed by the permutation with the smallest squared error to the outputs (N, C)."""
    # |out - Y|^2 = |out|^2 + N - 2 <out, Y>, and only the last term knows the permutation.
    gain = one_hot(labels, outputs.shape[1]).to(outputs).T @ outputs
    return best_permutation(gain).to(labels.device)[labels]


def permutation_mse(outputs: Tensor, labels: Tensor) -> Tensor:
    """(1 / 2N) min over pi of |outputs - Y_pi|_F^2: the paper's loss, exact for any number of classes.

    Args:
        outputs: (N, C).
        labels: classes (N,).

    Returns:
        A scalar with a gradient.

    Example:
        >>> import torch
        >>> from ood_nc.graphs import permutation_mse
        >>> float(permutation_mse(torch.eye(2), torch.tensor([1, 0])))
        0.0
    """
    return mean_squared_error(outputs, match_labels(outputs, labels))


def mean_squared_error(outputs: Tensor, labels: Tensor) -> Tensor:
    """(1 / 2N) |outputs - Y|_F^2, for classes that have names."""
    return (outputs - one_hot(labels, outputs.shape[1]).to(outputs)).square().sum() / (2 * len(labels))


def accuracy(predictions: Tensor, labels: Tensor, classes: int) -> float:
    """Share of nodes that are right under the best permutation of the labels."""
    confusion = one_hot(labels, classes).double().T @ one_hot(predictions, classes).double()
    return float(confusion[torch.arange(classes), best_permutation(confusion)].sum() / len(labels))


def overlap(predictions: Tensor, labels: Tensor, classes: int) -> float:
    """(accuracy - 1/C) / (1 - 1/C), the accuracy under the best permutation: 0 at chance, 1 for exact recovery.

    Args:
        predictions: (N,), from 0 to C - 1.
        labels: (N,), likewise.
        classes: C.

    Example:
        >>> import torch
        >>> from ood_nc.graphs import overlap
        >>> overlap(torch.tensor([1, 1, 0, 0]), torch.tensor([0, 0, 1, 1]), 2)
        1.0
    """
    return (accuracy(predictions, labels, classes) - 1 / classes) / (1 - 1 / classes)
