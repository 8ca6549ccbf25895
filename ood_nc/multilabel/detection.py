"""OOD scores of multi-label models; larger = more in-distribution."""

from __future__ import annotations

import torch
from torch import Tensor


def joint_energy(logits: Tensor, *, centered: bool = True) -> Tensor:
    """JointEnergy: the sum over labels of log(1 + exp(z_k)).

    It is made for per-label sigmoids. The pick-all-label loss ignores a shift that all logits share, so without
    centring the score would depend on what training left free.

    Args:
        logits: (N, K).
        centered: take the logits about their mean over labels; leave it out for sigmoid losses.

    Source: Wang et al., "Can multi-label classification networks know what they don't know?" (NeurIPS 2021).

    Example:
        >>> import torch
        >>> joint_energy(torch.tensor([[9.0, 9.0]])).item() == joint_energy(torch.tensor([[0.0, 0.0]])).item()
        True
    """
    values = logits.double()
    values = values - values.mean(dim=1, keepdim=True) if centered else values
    return torch.nn.functional.softplus(values).sum(dim=1)


def max_logit(logits: Tensor, *, centered: bool = True) -> Tensor:
    """The largest logit, about the mean of all (as in `joint_energy`).

    Source: Hendrycks et al., "Scaling Out-of-Distribution Detection for Real-World Settings" (ICML 2022), section 4.

    Example:
        >>> import torch
        >>> max_logit(torch.tensor([[3.0, 1.0]])).item()
        1.0
    """
    values = logits.double()
    values = values - values.mean(dim=1, keepdim=True) if centered else values
    return values.max(dim=1).values


def nearest_by_label(train: Tensor, train_sets: Tensor, queries: Tensor, query_sets: Tensor, *, k: int = 50) -> Tensor:
    """Minus the distance to the k-th nearest training image *of each label that is predicted*, averaged over them.

    Features are scaled to unit length, as the detector ``knn`` does.

    Args:
        train: training features (N, d).
        train_sets: their label sets (N, K).
        queries: (M, d).
        query_sets: predicted label sets (M, K); a query without a label that training images have counts as having all.
        k: of the neighbour; all of a label's images where it has fewer.

    Returns:
        (M,), in [-2, 0].

    Example:
        >>> import torch
        >>> train, sets = torch.eye(2), torch.eye(2)
        >>> nearest_by_label(train, sets, torch.tensor([[2.0, 0.0]]), torch.tensor([[1, 0]]), k=1).abs().item()
        0.0
    """
    bank, rows = (torch.nn.functional.normalize(part.double(), dim=1) for part in (train, queries))
    known = (train_sets == 1).any(dim=0)
    wanted = query_sets.bool() & known
    wanted = torch.where(wanted.any(dim=1, keepdim=True), wanted, known)
    total, count = rows.new_zeros(len(rows)), wanted.sum(dim=1)
    for label in known.nonzero().flatten().tolist():
        asking = wanted[:, label]
        members = bank[train_sets[:, label] == 1]
        if not bool(asking.any()):
            continue
        kept = min(k, len(members))
        distances = torch.cdist(rows[asking], members).kthvalue(kept, dim=1).values
        total[asking] -= distances
    return total / count.clamp(min=1)
