"""What samples of one tap are given as, and what follows from their logits alone."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from ood_nc.arrays import ArrayLike, as_matrix, on_float64_device
from ood_nc.caching import cached_property
from ood_nc.detection.errors import check_finite
from ood_nc.detection.head import Head, as_head
from ood_nc.detection.kit import linalg
from ood_nc.errors import UserError

_NUMBERS = 1 << 19
"""Logits at a time, or features that are converted: few classes in the usual chunks cost more to begin than to
compute."""

GivenHead: TypeAlias = "tuple[ArrayLike, ArrayLike | None]"


class Inputs:
    """Features, logits and head of the same samples, and what follows from logits alone."""

    knows: frozenset[str]

    def __init__(self, features: ArrayLike | None, logits: ArrayLike | None, head: GivenHead | None) -> None:
        self._features = None if features is None else on_float64_device(as_matrix(features, "features"))
        self._given_logits = None if logits is None else on_float64_device(as_matrix(logits, "logits"))
        self._head = as_head(head, None if self._features is None else self.dim)
        self._checked: frozenset[str] = frozenset()
        if self._features is None and self._given_logits is None:
            raise UserError("Neither features nor logits were given.")
        first = features if features is not None else logits
        self._origin = first.device if isinstance(first, torch.Tensor) else torch.device("cpu")
        # The shape, not len(): where a graph is traced, len() would fix the number of rows.
        if self._features is not None and self._given_logits is not None:
            rows, logit_rows = self._features.shape[0], self._given_logits.shape[0]
            if rows != logit_rows:
                raise UserError(f"There are {rows} feature rows and {logit_rows} logit rows.")

    @property
    def available(self) -> frozenset[str]:
        """Which of "features", "labels", "logits", "head" there are."""
        found = {"nonnegative"}
        if self._features is not None:
            found.add("features")
        if self.has_head:
            found.add("head")
        if self._given_logits is not None or (self._features is not None and self.has_head):
            found.add("logits")
        return frozenset(found)

    @property
    def features(self) -> Tensor:
        """(N, d) as given: never change it in place."""
        if self._features is None:
            raise UserError("No features were given.")
        return self._features

    @property
    def has_head(self) -> bool:
        """Whether there is a head."""
        return self._head is not None

    @property
    def head(self) -> Head:
        """The linear head that reads the features."""
        if self._head is None:
            raise UserError("No head was given.")
        return self._head

    @property
    def dim(self) -> int:
        """Width of the features."""
        return self.features.shape[1]

    @property
    def num_logits(self) -> int:
        """Width of the logits."""
        return len(self.head.bias) if self._given_logits is None else self._given_logits.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the computation runs."""
        return (self._features if self._features is not None else self.logits).device

    def __len__(self) -> int:
        return len(self._features if self._features is not None else self.logits)

    @cached_property
    def logits(self) -> Tensor:
        """(N, C) float64: as given, or the head's."""
        if self._given_logits is not None:
            return self._given_logits.double()
        return self.head.logits(self.features)

    @cached_property
    def max_logit(self) -> Tensor:
        """Largest logit (N,)."""
        return self._of_logits[:, 0]

    @cached_property
    def predictions(self) -> Tensor:
        """Index of the largest logit (N,)."""
        return self.logits.argmax(dim=1)

    @cached_property
    def log_sum_exp(self) -> Tensor:
        """log sum_c exp(logit_c) (N,)."""
        return self._of_logits[:, 1]

    @cached_property
    def _of_logits(self) -> Tensor:
        """Largest logit, log-sum-exp, and a number that is finite where all are (N, 3) float64.

        No term cancels in the logits, so those of the head are multiplied, and what is below the largest exponentiated,
        in the precision of the features, as by the network's own head; their sum is float64, in which a largest
        softmax probability close to 1 keeps its digits.
        """

        def reduced(logits: Tensor) -> Tensor:
            largest, sums = logits.amax(dim=1, keepdim=True), logits.sum(dim=1, keepdim=True)
            total = (logits - largest).exp_().sum(dim=1, keepdim=True)
            return torch.cat([largest, largest + total.log_(), sums * 0], dim=1)

        if self._given_logits is None and "logits" not in vars(self) and linalg.float32_suffices(self.features):
            found = self._of_float32_logits()
            if bool(found.isfinite().all()):  # Else float32 overflows, or the features are not finite.
                return found
        return linalg.by_chunks(reduced, self.logits)

    def _of_float32_logits(self) -> Tensor:
        # Memory is taken once: to take it anew for every chunk costs more than half of what is done in it.
        weight, bias = (part.to(torch.float32) for part in self.head.to(self.device))
        rows, classes = self.features.shape[0], len(bias)
        size = max(linalg.CHUNK, _NUMBERS // (classes if self.features.dtype == torch.float32 else max(weight.shape)))
        room = weight.new_empty(min(size, rows), classes)
        wide = torch.empty_like(room, dtype=torch.float64)
        found = wide.new_empty(3, rows)
        for part, reduced in linalg.chunks(self.features, found.T, size=size):
            largest, total, proof = reduced.unbind(dim=1)
            logits = torch.addmm(bias, part.to(torch.float32), weight.T, out=room[: len(part)])
            largest.copy_(logits.amax(dim=1))
            below = logits.sub_(largest[:, None].float()).exp_()
            torch.sum(wide[: len(below)].copy_(below), dim=1, out=total)
            # A feature that is not finite makes every logit of its sample so, and with them the largest.
            torch.mul(largest, 0, out=proof)
        found[1].log_().add_(found[0])
        return found.T

    @cached_property
    def probabilities(self) -> Tensor:
        """Softmax of the logits (N, C)."""
        return self.logits.softmax(dim=1)

    @cached_property
    def _lowest(self) -> float:
        return float(self.features.min()) if self.features.numel() else 0.0

    def check(self, names: frozenset[str]) -> None:
        """Raise :class:`NonFiniteError` where the named inputs hold NaN or infinity (looked at once)."""
        left = names - self._checked
        of_head = "logits" in left and self._given_logits is None
        # A feature that is not finite makes logits so, and they are needed anyway: one look at both.
        if not (of_head and bool(self._of_logits.isfinite().all())):
            if "features" in left:
                check_finite(self.features, "features")
            if of_head:
                check_finite(self._of_logits, "logits of the head", "scale those samples or leave them out")
            elif "logits" in left and self._given_logits is not None:
                check_finite(self._given_logits, "logits")
        self._checked |= names

    def check_nonnegative(self, detector: str) -> None:
        """Raise :class:`UserError` where a feature is negative."""
        if self._lowest < 0:
            raise UserError(
                f"Detector {detector!r} needs non-negative (post-ReLU) features; the lowest is {self._lowest:.3g}."
            )
