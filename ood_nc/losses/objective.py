"""The training objective: a task loss on the logits and an entropy term on any set of taps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from ood_nc.arrays import ArrayLike
from ood_nc.errors import UserError
from ood_nc.losses.entropy import nearest_neighbor_entropy

ENCODER_ONLY: Mapping[str, float] = MappingProxyType({"encoder": 0.05})
"""Which tap the ICML 2025 paper regularises, and how strongly."""


class Objective(nn.Module):
    r"""L = task loss + sum over taps of weight * nearest-neighbour entropy loss.

    Args:
        task: ``cross_entropy``, or ``mse``: the squared difference of logits and one-hot (or soft) targets,
            mean over samples and classes.
        smoothing: label smoothing of the cross-entropy, of hard and of soft targets alike (so let mixup add
            none).
        entropy_weights: the weight of each regularised tap; a weight of 0 drops the term.
        entropy_scope: where neighbours are sought, see `nearest_neighbor_entropy`.

    Raises:
        UserError: unknown task or scope, smoothing outside [0, 1), a weight that is not finite.

    Source: Harun, Gallardo, Kanan, ICML 2025: cross-entropy with smoothing 0.1, weight 0.05 on the encoder.
    """

    def __init__(
        self,
        task: Literal["cross_entropy", "mse"] = "cross_entropy",
        *,
        smoothing: float = 0.1,
        entropy_weights: Mapping[str, float] = ENCODER_ONLY,
        entropy_scope: Literal["global", "device"] = "global",
    ) -> None:
        super().__init__()
        if task not in ("cross_entropy", "mse"):
            raise UserError(f"task must be 'cross_entropy' or 'mse', got {task!r}.")
        if not 0 <= smoothing < 1:
            raise UserError(f"smoothing must be in [0, 1), got {smoothing}.")
        if entropy_scope not in ("global", "device"):
            raise UserError(f"entropy_scope must be 'global' or 'device', got {entropy_scope!r}.")
        for tap, weight in entropy_weights.items():
            if not math.isfinite(weight):
                raise UserError(f"The entropy weight of tap {tap!r} must be finite, got {weight}.")
        self.task: Literal["cross_entropy", "mse"] = task
        self.smoothing = smoothing
        self.entropy_weights = {tap: float(weight) for tap, weight in entropy_weights.items() if weight != 0}
        self.entropy_scope: Literal["global", "device"] = entropy_scope

    def forward(
        self,
        logits: torch.Tensor,
        targets: torch.Tensor,
        taps: Mapping[str, torch.Tensor],
        groups: ArrayLike | None = None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss and its parts.

        Args:
            logits: (B, C).
            targets: (B,) class indices, or (B, C) class probabilities.
            taps: name to (B, d) features.
            groups: (B,) which image each row comes from, see `nearest_neighbor_entropy`.

        Returns:
            The scalar loss, and its parts before weighting, detached: ``task``, and for each regularised tap
            ``entropy/<tap>``.

        Raises:
            UserError: a regularised tap is missing, or the targets do not fit the logits.
        """
        task = self._task_loss(logits, targets)
        loss, parts = task, {"task": task.detach()}
        for tap, weight in self.entropy_weights.items():
            if tap not in taps:
                there = ", ".join(taps) or "none"
                raise UserError(f"No tap {tap!r} to regularise (entropy_weight); the model has: {there}.")
            entropy = nearest_neighbor_entropy(taps[tap], scope=self.entropy_scope, groups=groups)
            loss = loss + weight * entropy
            parts[f"entropy/{tap}"] = entropy.detach()
        return loss, parts

    def extra_repr(self) -> str:
        """The settings, for printing."""
        entropy = f"entropy_weights={self.entropy_weights}, entropy_scope={self.entropy_scope}"
        return f"task={self.task}, smoothing={self.smoothing}, {entropy}"

    def _task_loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        soft = targets.is_floating_point()
        expected = tuple(logits.shape) if soft else (len(logits),)
        if logits.ndim != 2 or tuple(targets.shape) != expected:
            kind = "soft" if soft else "class index"
            raise UserError(f"{kind} targets of shape {tuple(targets.shape)} do not fit logits {tuple(logits.shape)}.")
        logits = logits if logits.dtype == torch.float64 else logits.float()
        if self.task == "cross_entropy":
            wanted = targets.to(logits.dtype) if soft else targets.long()
            return F.cross_entropy(logits, wanted, label_smoothing=self.smoothing)
        wanted = targets if soft else F.one_hot(targets.long(), logits.shape[1])
        return F.mse_loss(logits, wanted.to(logits.dtype))
