"""A small, seeded detection problem that any sensible score solves; the checks of detectors run on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ood_nc.detection.base import BaseDetector
from ood_nc.detection.feature_base import FeatureDetector
from ood_nc.detection.testing.image_problem import ImageProblem, make_image_problem

AnyProblem: TypeAlias = "Problem | ImageProblem"
"""Both kinds know how to fit and to score a detector of theirs, so a check of both is written once."""


@dataclass(frozen=True)
class Problem:
    """A small ID train set, ID and OOD queries, and the linear head that classifies them.

    Class means are well apart; OOD samples lie around their common mean, closer to the origin than ID samples, as the
    features of unknown inputs do (their norms are smaller): any sensible score tells them apart.
    """

    features: Tensor
    labels: Tensor
    head: tuple[Tensor, Tensor]
    queries: Tensor
    ood: Tensor

    @property
    def rows(self) -> Tensor:
        """The train data without labels."""
        return self.features

    def logits(self, features: Tensor) -> Tensor:
        """Logits of the head."""
        return features @ self.head[0].T + self.head[1]

    def fit(
        self,
        detector: FeatureDetector,
        rows: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        view: Callable[[Tensor], Any] = lambda rows: rows,
    ) -> FeatureDetector:
        """Fit with everything the problem has, or on other rows and labels; arrays are given as ``view`` shows them."""
        rows, labels = self.features if rows is None else rows, self.labels if labels is None else labels
        head = view(self.head[0]), self.head[1]
        return detector.fit(view(rows), labels, logits=view(self.logits(rows)), head=head)

    def given(self, rows: Tensor, view: Callable[[Tensor], Any] = lambda rows: rows) -> dict[str, Any]:
        """The arguments of ``score`` for such rows."""
        return {"features": view(rows), "logits": view(self.logits(rows))}


def make_problem(
    n: int = 240, dim: int = 12, classes: int = 4, seed: int = 0, nonnegative: bool = False, spread: float = 0.5
) -> Problem:
    """A seeded :class:`Problem` in float32.

    Args:
        n: train samples.
        dim: width of the features.
        classes: number of classes.
        seed: equal seeds give equal problems.
        nonnegative: post-ReLU features.
        spread: standard deviation within a class; class means have norm 6.
    """
    rng = torch.Generator().manual_seed(seed)
    means = torch.zeros(classes, dim)
    means[torch.arange(classes), torch.arange(classes) % dim] = 6.0
    labels = torch.arange(n) % classes

    def samples(chosen: Tensor) -> Tensor:
        return means[chosen] + spread * torch.randn(len(chosen), dim, generator=rng)

    features, queries = samples(labels), samples(labels[: n // 4])
    ood = means.mean(dim=0) + 1.5 * torch.randn(n // 4, dim, generator=rng)
    if nonnegative:
        features, queries, ood = (rows.relu() for rows in (features, queries, ood))
    ood *= 0.2 if nonnegative else 0.5
    weight = means - means.mean(dim=0)
    return Problem(features, labels, (weight, -(weight * means).sum(dim=1) / 2), queries, ood)


def problem_for(cls: type[BaseDetector], **sizes: Any) -> Any:
    """A problem of the detector's kind, with features as it asks for; ``sizes`` are arguments of what makes it."""
    if cls.kind == "input":
        return make_image_problem(**sizes)
    return make_problem(nonnegative="nonnegative" in cls.requires, **sizes)
