"""The training objective: a task loss on the logits and any number of terms on the taps."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import nn

from ood_nc.arrays import ArrayLike, as_labels
from ood_nc.errors import UserError, nearest
from ood_nc.losses.registry import LOSSES, Batch, LossFunction, Term

Task: TypeAlias = Literal["cross_entropy", "mse", "none"]

ENCODER_ONLY: Mapping[str, float] = MappingProxyType({"encoder": 0.05})
"""Which tap the ICML 2025 paper regularises, and how strongly."""


class Objective(nn.Module):
    r"""L = task loss + sum over terms of weight * loss(features of the term's tap).

    Args:
        task: ``cross_entropy``, or ``mse``: the squared difference of logits and one-hot (or soft) targets,
            mean over samples and classes; or ``none``, where a term takes its place (several labels an image).
        smoothing: label smoothing of the cross-entropy, of hard and of soft targets alike (so let mixup add
            none).
        entropy_weights: short for an ``entropy`` term on each of these taps.
        entropy_scope: of those terms: where neighbours are sought, see `nearest_neighbor_entropy`.
        terms: further terms. One of weight 0 is left out, as it is of ``entropy_weights``.
        steered: terms whose weight changes while training (`set_law`), so one of weight 0 stays.
        class_weights: (C,) of the cross-entropy: what each class's part of it is multiplied by, before the mean over
            images (that of the weights does not divide it).

    Attributes:
        terms: all terms, those of ``entropy_weights`` first, with the weights they started with.

    Raises:
        UserError: unknown task, scope, loss or argument of one; smoothing outside [0, 1); a weight that is not finite;
            one loss twice on a tap.

    Source: Harun, Gallardo, Kanan, ICML 2025: cross-entropy with smoothing 0.1, weight 0.05 on the encoder.

    Example:
        >>> import torch
        >>> objective = Objective(smoothing=0.0, entropy_weights={"encoder": 0.5})
        >>> taps = {"encoder": torch.tensor([[1.0, 0.0], [-1.0, 0.0]])}
        >>> loss, parts = objective(torch.zeros(2, 2), torch.tensor([0, 1]), taps)
        >>> {name: round(part.item(), 3) for name, part in parts.items()}, round(loss.item(), 3)
        ({'task': 0.693, 'entropy/encoder': -0.693}, 0.347)
    """

    def __init__(
        self,
        task: Task = "cross_entropy",
        *,
        smoothing: float = 0.1,
        entropy_weights: Mapping[str, float] = ENCODER_ONLY,
        entropy_scope: Literal["global", "device"] = "global",
        terms: Iterable[Term] = (),
        steered: Iterable[Term] = (),
        class_weights: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        if task not in get_args(Task):
            raise UserError(f"task must be 'cross_entropy', 'mse' or 'none', got {task!r}.")
        if not 0 <= smoothing < 1:
            raise UserError(f"smoothing must be in [0, 1), got {smoothing}.")
        if entropy_scope not in ("global", "device"):
            raise UserError(f"entropy_scope must be 'global' or 'device', got {entropy_scope!r}.")
        self.task: Task = task
        self.smoothing = smoothing
        self.class_weights: torch.Tensor | None
        if class_weights is not None and task != "cross_entropy":
            raise UserError(f"Class weights are of the cross-entropy, and the task is {task!r}.")
        self.register_buffer("class_weights", class_weights, persistent=False)
        short = [Term("entropy", tap, weight, {"scope": entropy_scope}) for tap, weight in entropy_weights.items()]
        self.terms = (*(term for term in (*short, *terms) if term.weight != 0), *steered)
        self._losses = tuple(_checked_loss(term) for term in self.terms)
        if task == "none" and not self.terms:
            raise UserError("task 'none' needs a term of a weight that is not 0: there is nothing to learn from.")
        places = [(term.name, term.tap) for term in self.terms]
        for name, tap in places:
            if places.count((name, tap)) > 1:
                raise UserError(f"The loss {name!r} is there twice on the tap {tap!r}: add up the weights.")
        self._weights = {place: term.weight for place, term in zip(places, self.terms, strict=True)}
        self._laws: dict[tuple[str, str], Callable[[torch.Tensor], torch.Tensor]] = {}

    def set_law(self, name: str, tap: str, law: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Let the weight of the loss ``name`` on ``tap`` from now on be that of its (detached) value in each batch."""
        self._laws[name, tap] = law

    def forward(
        self,
        logits: torch.Tensor,
        targets: torch.Tensor,
        taps: Mapping[str, torch.Tensor],
        groups: ArrayLike | None = None,
        *,
        heads: Mapping[str, tuple[torch.Tensor, torch.Tensor | None]] | None = None,
        outliers: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss and its parts.

        Args:
            logits: (B, C), B at least 1.
            targets: (B,) class indices, or (B, C) class probabilities.
            taps: name to (B, d) features.
            groups: (B,) which image each row comes from, see `nearest_neighbor_entropy`.
            heads: weight and bias of the linear head that reads a tap, by tap, for terms that read them.
            outliers: (M, C) logits of outliers, for terms that read them.

        Returns:
            The scalar loss, and its parts before weighting, detached: ``task``, and for each term
            ``<loss>/<tap>``.

        Raises:
            UserError: the tap of a term is missing, the batch is empty, or the targets do not fit the logits.
        """
        task = self._task_loss(logits, targets)
        loss, parts = task, {"task": task.detach()}
        for term, function in zip(self.terms, self._losses, strict=True):
            if term.tap not in taps:
                there = ", ".join(taps) or "none"
                raise UserError(f"No tap {term.tap!r} for the loss {term.name!r}; the model has: {there}.")
            place = term.name, term.tap
            weight, law = self._weights[place], self._laws.get(place)
            with torch.set_grad_enabled(torch.is_grad_enabled() and (law is not None or weight != 0)):
                own = Batch(logits, targets, groups, (heads or {}).get(term.tap), outliers)
                value = function(taps[term.tap], own, **term.kwargs)
            loss = loss + (weight if law is None else law(value.detach())) * value
            parts[f"{term.name}/{term.tap}"] = value.detach()
        return loss, parts

    def extra_repr(self) -> str:
        """The settings, for printing."""
        terms = [f"{term.weight:g} * {term.name}({term.tap})" for term in self.terms]
        return " + ".join([f"{self.task}(smoothing={self.smoothing:g})", *terms])

    def _task_loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        soft = targets.is_floating_point()
        expected = tuple(logits.shape) if soft else (len(logits),)
        if logits.ndim != 2 or tuple(targets.shape) != expected:
            kind = "soft" if soft else "class index"
            raise UserError(f"{kind} targets of shape {tuple(targets.shape)} do not fit logits {tuple(logits.shape)}.")
        if not len(logits):
            raise UserError("The batch is empty: a loss is a mean over samples.")
        logits = logits if logits.dtype == torch.float64 else logits.float()
        if self.task == "none":
            return logits.new_zeros(())
        wanted = targets.to(logits.dtype) if soft else _classes(targets, logits.shape[1])
        if self.task == "cross_entropy":
            if self.class_weights is None:
                return F.cross_entropy(logits, wanted, label_smoothing=self.smoothing)
            weights = self.class_weights.to(logits)
            summed = F.cross_entropy(logits, wanted, weights, label_smoothing=self.smoothing, reduction="sum")
            return summed / len(logits)
        wanted = wanted if soft else F.one_hot(wanted, logits.shape[1]).to(logits.dtype)
        return F.mse_loss(logits, wanted)


def _classes(targets: torch.Tensor, classes: int) -> torch.Tensor:
    """Class indices; torch's own answer to one out of range is silence (-100) or a stopped GPU."""
    if torch.compiler.is_compiling():
        return targets.long()
    return as_labels(targets, name="targets", num_classes=classes)


def _checked_loss(term: Term) -> LossFunction:
    if not math.isfinite(term.weight):
        raise UserError(f"The weight of the loss {term.name!r} on the tap {term.tap!r} must be finite: {term.weight}.")
    loss = LOSSES[term.name]
    known = inspect.signature(loss).parameters
    parameters = list(known)[2:]
    for name, value in term.kwargs.items():
        wanted = known[name].default if name in known else None
        if type(wanted) in (int, float) and not isinstance(value, (int, float)):
            hint = " (YAML reads 1e-3 as text: write 1.0e-3)" if isinstance(value, str) else ""
            raise UserError(f"{name} of the loss {term.name!r} must be a number, got {value!r}{hint}.")
    try:
        inspect.signature(loss).bind(None, None, **term.kwargs)
    except TypeError as error:
        hint = "".join(nearest(name, parameters) for name in term.kwargs if name not in parameters)
        raise UserError(f"The loss {term.name!r} does not take these arguments: {error}.{hint}") from None
    return loss
