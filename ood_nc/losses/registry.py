"""The terms that an objective can hold, by name: functions of one tap's features and of the batch they come from."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import torch

from ood_nc.arrays import ArrayLike
from ood_nc.registry import Registry


class Batch(NamedTuple):
    """What a term may read beside its features.

    Attributes:
        logits: (B, C).
        targets: (B,) class indices, or (B, C) class probabilities.
        groups: (B,) which image each row comes from, under repeated augmentation; else None.
        head: weight (C, d) and bias (C,) or None, of the linear head that reads these features, where one does.
        outliers: (M, C), the logits of the outliers that were forwarded with the batch, where there are any.

    Example:
        >>> import torch
        >>> from ood_nc.losses import Batch
        >>> Batch(logits=torch.zeros(2, 3), targets=torch.tensor([0, 2])).groups is None
        True
    """

    logits: torch.Tensor
    targets: torch.Tensor
    groups: ArrayLike | None = None
    head: tuple[torch.Tensor, torch.Tensor | None] | None = None
    outliers: torch.Tensor | None = None


@dataclass(frozen=True)
class Term:
    """One term of an objective.

    Attributes:
        name: of a registered loss.
        tap: whose features it reads.
        weight: what its value is multiplied by; 0 leaves the term out.
        kwargs: further arguments of the loss.

    Example:
        >>> Term("entropy", tap="encoder", weight=0.05, kwargs={"scope": "device"}).name
        'entropy'
    """

    name: str
    tap: str
    weight: float
    kwargs: Mapping[str, Any] = field(default_factory=dict)


LossFunction: TypeAlias = Callable[..., torch.Tensor]
"""(features (B, d), batch, **kwargs) -> scalar with a gradient. It holds no state: what learns belongs to the model."""


def _fault(loss: object) -> str | None:
    if isinstance(loss, type) or not callable(loss):
        return "is no function of (features, batch)"
    try:
        inspect.signature(loss).bind(None, None)
    except (TypeError, ValueError) as error:
        return f"is no function of (features, batch): {error}"
    return None


LOSSES: Registry[LossFunction] = Registry("loss", "ood_nc.losses", fault=_fault, package="ood_nc.losses")
"""Every loss that a `Term` can name. Ours are added in the files of this folder."""
