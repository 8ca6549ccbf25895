"""How well label sets are predicted."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from ood_nc.errors import UserError


@dataclass(frozen=True)
class LabelSetScores:
    """Averages over images, all in [0, 1].

    Attributes:
        subset_accuracy: share of images whose |S| largest logits are those of their labels.
        iou: |S and top| / |S or top|, the |S| largest logits being top.
        probability_mass: softmax probability on the labels that are there.
        mean_average_precision: over labels, of each label's ranking of all images; labels of no image are left out, and
            None where none is left.
    """

    subset_accuracy: float
    iou: float
    probability_mass: float
    mean_average_precision: float | None

    def to_dict(self) -> dict[str, float | None]:
        """The numbers by name."""
        return asdict(self)


def exact_matches(logits: Tensor, label_sets: Tensor) -> Tensor:
    """Whether the |S| largest logits of an image are those of its labels (N,), for logits and label sets (N, K)."""
    sets = label_sets.bool().cpu()
    return (_top(logits.detach().double().cpu(), sets) == sets).all(dim=1)


def score_label_sets(logits: Tensor, label_sets: Tensor) -> LabelSetScores:
    """Compare logits with the label sets of the images.

    Args:
        logits: (N, K).
        label_sets: (N, K) of 0 and 1, each row with a 1.

    Raises:
        UserError: shapes that do not fit, logits that are not finite, or an image without a label.

    Source: Li et al. (ICML 2024), whose code calls the probability mass IoU; average precision: scikit-learn.

    Example:
        >>> import torch
        >>> logits, sets = torch.tensor([[2.0, 1.0, 0.0]] * 2), torch.tensor([[1, 1, 0], [1, 0, 1]])
        >>> found = score_label_sets(logits, sets)
        >>> found.subset_accuracy, round(found.iou, 3)
        (0.5, 0.667)
    """
    sets = label_sets.bool().cpu()
    values = logits.detach().double().cpu()
    if sets.shape != values.shape or sets.ndim != 2 or not bool(values.isfinite().all()) or not bool(sets.any(1).all()):
        raise UserError(
            f"Label sets {tuple(sets.shape)}, a label or more in each, need finite logits of their shape, got "
            f"{tuple(values.shape)}."
        )
    top = _top(values, sets)
    common, joined = (top & sets).sum(dim=1), (top | sets).sum(dim=1)
    there = sets.any(dim=0) & ~sets.all(dim=0)
    precisions = [average_precision_score(sets[:, k].numpy(), values[:, k].numpy()) for k in there.nonzero().flatten()]
    return LabelSetScores(
        subset_accuracy=float(exact_matches(logits, label_sets).double().mean()),
        iou=float((common / joined).double().mean()),
        probability_mass=float((torch.softmax(values, dim=1) * sets).sum(dim=1).mean()),
        mean_average_precision=float(np.mean(precisions)) if precisions else None,
    )


def _top(values: Tensor, sets: Tensor) -> Tensor:
    """Of each row as many of the largest values as its set has members, True."""
    return values.argsort(dim=1, descending=True).argsort(dim=1) < sets.sum(dim=1, keepdim=True)
