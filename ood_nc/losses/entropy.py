"""The nearest-neighbour (Kozachenko-Leonenko) entropy of a batch on the unit sphere, as a loss."""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed as dist

from ood_nc.arrays import ArrayLike, as_matrix, as_tensor
from ood_nc.errors import UserError
from ood_nc.losses.registry import LOSSES, Batch


def nearest_neighbor_entropy(
    features: ArrayLike,
    *,
    scope: Literal["global", "device"] = "global",
    groups: ArrayLike | None = None,
    eps: float = 1e-8,
    floor: float = 1e-4,
) -> torch.Tensor:
    r"""Minus the nearest-neighbour entropy of a batch: the smaller, the further apart the samples are.

    .. math::
        \hat e_i = e_i / \max(|e_i|, \epsilon), \quad j(i) = \arg\max_{j \ne i} \hat e_i \cdot \hat e_j, \quad
        L = -\frac{1}{B} \sum_i \log(|\hat e_i - \hat e_{j(i)} + \epsilon|_2 + \epsilon)

    The search is not differentiated. Everything runs in float32 at least, whatever autocast says.

    Across processes (``scope="global"``) the neighbours are sought in the joined batch of all of them, which
    may differ in size. Every process then gets the loss of the joined batch, and the mean over processes of
    the gradients, which is what DistributedDataParallel takes, is the gradient of that loss. All processes
    must call it together.

    A row whose norm or whose distance to its neighbour is below ``floor`` keeps its value and gives no
    gradient: that gradient grows as 1 / (norm * distance), in a direction that is rounding alone.

    Args:
        features: (B, d).
        scope: where neighbours are sought: ``global``, the joined batch of all processes, or ``device``, the
            batch of this one.
        groups: (B,) whole numbers. Two rows of one group, such as two augmentations of one image, are never
            neighbours; a row with no other group in the batch is left out of the mean.
        eps: added to differences and distances, and the least norm to divide by.
        floor: least norm, and least distance on the unit sphere, that gives a gradient.

    Returns:
        Scalar, float64 for float64 features, else float32. 0 when no row has a neighbour, so for fewer than
        two rows. NaN for features that hold NaN or infinity, as a gradient scaler needs it.

    Raises:
        UserError: ``features`` is not (B, d), ``groups`` not (B,), or ``scope`` unknown.

    Source: Harun, Gallardo, Kanan, "Controlling Neural Collapse Enhances Out-of-Distribution Detection and
    Transfer Learning", ICML 2025; the estimator is Kozachenko and Leonenko's (1987) with constants dropped.

    Example:
        >>> import torch
        >>> nearest_neighbor_entropy(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        tensor(-0.6931)
    """
    if scope not in ("global", "device"):
        raise UserError(f"scope must be 'global' or 'device', got {scope!r}.")
    matrix = as_matrix(features)
    # as_matrix detaches, so it only checks what already is a floating-point tensor.
    rows = features if isinstance(features, torch.Tensor) and features.is_floating_point() else matrix
    labels = None if groups is None else as_tensor(groups, "groups").to(rows.device)
    if labels is not None and labels.shape != (len(rows),):
        raise UserError(f"groups must have shape ({len(rows)},), got {tuple(labels.shape)}.")
    with torch.autocast(rows.device.type, enabled=False):
        rows = rows if rows.dtype == torch.float64 else rows.float()
        if scope == "device" or not _distributed():
            return _loss(rows, _search(rows, rows, 0, labels, labels, eps), eps, floor)
        return _global_loss(rows, labels, eps, floor)


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _global_loss(rows: torch.Tensor, groups: torch.Tensor | None, eps: float, floor: float) -> torch.Tensor:
    """The loss of the joined batch; its gradient is scaled so that the mean over processes is right."""
    rank, world = dist.get_rank(), dist.get_world_size()
    size = torch.tensor([len(rows)], device=rows.device)
    all_sizes = [torch.empty_like(size) for _ in range(world)]
    dist.all_gather(all_sizes, size)
    sizes = [int(entry) for entry in torch.cat(all_sizes).tolist()]
    parts = _gather(rows.detach(), sizes)
    parts[rank] = rows
    joined = torch.cat(parts)
    all_groups = None if groups is None else torch.cat(_gather(groups, sizes))
    # Each process searches for its own rows only: the search is the one part whose cost grows with B squared.
    own = _search(rows, joined, sum(sizes[:rank]), groups, all_groups, eps)
    loss = _loss(joined, torch.cat(_gather(own, sizes)), eps, floor)
    return loss + (world - 1) * (loss - loss.detach())


def _gather(local: torch.Tensor, sizes: list[int]) -> list[torch.Tensor]:
    """The rows of every process, in rank order; collectives want equal shapes, hence the padding."""
    padded = local.new_zeros((max(sizes), *local.shape[1:]))
    padded[: len(local)] = local
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return [part[:size] for part, size in zip(parts, sizes, strict=True)]


@torch.no_grad()
def _search(
    queries: torch.Tensor,
    bank: torch.Tensor,
    start: int,
    query_groups: torch.Tensor | None,
    bank_groups: torch.Tensor | None,
    eps: float,
) -> torch.Tensor:
    """Where in ``bank`` each query's neighbour is, -1 for none; query i itself is row ``start`` + i of it."""
    if len(bank) < 2:
        return torch.full((len(queries),), -1, device=bank.device)
    # Near-duplicates differ in the cosine's 8th digit, beyond float32; products in TF32 would have 3 digits.
    wide = torch.float32 if bank.device.type == "mps" else torch.float64
    similarity = _normalize(queries.to(wide), eps) @ _normalize(bank.to(wide), eps).T
    own = torch.arange(len(queries), device=bank.device)
    excluded = (own + start)[:, None] == torch.arange(len(bank), device=bank.device)
    if query_groups is not None and bank_groups is not None:
        excluded = excluded | (query_groups[:, None] == bank_groups)
    similarity = similarity.masked_fill(excluded, -torch.inf)
    return torch.where(excluded.all(dim=1), -1, similarity.argmax(dim=1))


def _normalize(rows: torch.Tensor, eps: float) -> torch.Tensor:
    # The squares of very long rows leave the range of the dtype; a power of two changes no digit.
    exponents = torch.frexp(torch.linalg.vector_norm(rows.detach(), torch.inf, dim=1, keepdim=True))[1]
    rows = rows * torch.exp2(-exponents.clamp(0, 1000 if rows.dtype == torch.float64 else 120).to(rows.dtype))
    norms: torch.Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / norms.clamp(min=eps)


def _loss(rows: torch.Tensor, neighbors: torch.Tensor, eps: float, floor: float) -> torch.Tensor:
    """Minus the mean log distance of rows to ``neighbors``, over the rows that have one."""
    if len(rows) < 2:
        return rows[:0].sum()  # zero, and still part of the graph
    alive = torch.linalg.vector_norm(rows.detach(), dim=1) >= floor
    unit = _normalize(torch.where(alive[:, None], rows, rows.detach()), eps)
    distance = torch.linalg.vector_norm(unit - unit[neighbors.clamp(min=0)] + eps, dim=1)
    log_distance = torch.log(distance + eps)
    gives_gradient = alive & (distance.detach() >= floor)
    log_distance = torch.where(gives_gradient, log_distance, log_distance.detach())
    paired = neighbors >= 0
    return -torch.where(paired, log_distance, 0.0).sum() / paired.sum().clamp(min=1)


def _term(features: torch.Tensor, batch: Batch, *, scope: Literal["global", "device"] = "global") -> torch.Tensor:
    """Minus the nearest-neighbour entropy on the unit sphere (Harun et al. 2025)."""
    return nearest_neighbor_entropy(features, scope=scope, groups=batch.groups)


LOSSES.add("entropy", _term)
