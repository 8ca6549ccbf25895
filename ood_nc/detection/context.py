"""What detectors work from, computed once and shared: ID train data of a tap, and a batch of queries to score.

``fit`` and ``score`` wrap plain arrays in these themselves. Where many detectors see the same tap, build them once::

    train = TapStatistics(features, labels, logits=logits, head=head)
    queries = TapQueries(bank_features, logits=bank_logits)
    scores = {d.name: d.fit(train).score(queries) for d in detectors}

Every intermediate (class means, covariance, eigen-decomposition, log-sum-exp ...) is then computed by the first
detector that asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor

from ood_nc.arrays import ArrayLike, as_labels
from ood_nc.caching import cached_property
from ood_nc.detection.head import Head
from ood_nc.detection.inputs import GivenHead, Inputs
from ood_nc.detection.kit import linalg, scatter
from ood_nc.detection.kit.whitening import whitening
from ood_nc.errors import UserError

T = TypeVar("T")


class TapStatistics(Inputs):
    """ID train data of one tap and the statistics detectors share.

    Args:
        features: (N, d), N at least 1; None for detectors of logits alone.
        labels: class indices (N,), or None.
        logits: (N, C), or None.
        head: weight (C, d) and bias (C,) or None.
        held_out: the same of ID samples the network was not trained on, with its own logits or head; detectors that
            calibrate on such (temperature scaling, KL matching) otherwise take the train data, which is optimistic.

    Raises:
        UserError: shapes disagree, no sample, labels that are none or have no logit, or held-out data that do not fit.

    Example:
        >>> TapStatistics([[0.0, 1.0], [2.0, -1.0], [8.0, 4.0]], [0, 0, 2]).class_means
        tensor([[1., 0.],
                [8., 4.]], dtype=torch.float64)
    """

    knows = frozenset({"features", "labels", "logits", "head"})

    def __init__(
        self,
        features: ArrayLike | None,
        labels: ArrayLike | None = None,
        *,
        logits: ArrayLike | None = None,
        head: GivenHead | None = None,
        held_out: TapStatistics | None = None,
    ) -> None:
        self._labels: Tensor | None = None
        super().__init__(features, logits, head)
        if len(self) == 0:
            raise UserError("There are no train samples to fit on.")
        num_classes = self.num_logits if "logits" in self.available else None
        if labels is not None:
            self._labels = as_labels(labels, len(self), num_classes=num_classes).to(self.device)
        self._held_out = held_out
        if held_out is not None:
            self._check_held_out(held_out)

    def _check_held_out(self, held_out: TapStatistics) -> None:
        lacking = (self.available & {"features", "labels", "logits"}) - held_out.available
        if lacking:
            raise UserError(f"held_out lacks {', '.join(sorted(lacking))}, which the train data have.")
        for name, width in (("features", "dim"), ("logits", "num_logits")):
            theirs, ours = (getattr(part, width) if name in self.available else None for part in (held_out, self))
            if theirs != ours:
                raise UserError(f"held_out has {theirs} {name} per sample, the train data have {ours}.")

    @property
    def calibration(self) -> TapStatistics:
        """The held-out data where they were given, else these data themselves."""
        return self if self._held_out is None else self._held_out

    @property
    def available(self) -> frozenset[str]:
        """Which of "features", "labels", "logits", "head" there are."""
        return super().available | ({"labels"} if self._labels is not None else set())

    @property
    def labels(self) -> Tensor:
        """Class indices (N,) int64."""
        if self._labels is None:
            raise UserError("No labels were given.")
        return self._labels

    def check(self, names: frozenset[str]) -> None:
        """As of any inputs; a mean that is finite shows that features are, and serves who ranks by it."""
        left = names - self._checked
        narrow = self._features is not None and self._features.dtype != torch.float64
        if narrow and "features" in left and "logits" not in left and bool(torch.isfinite(self.near_mean).all()):
            self._checked |= {"features"}
        super().check(names)

    @cached_property
    def classes(self) -> Tensor:
        """The class indices that have samples, ascending (K,); rows of ``class_means`` follow it."""
        present: Tensor = self.labels.unique()
        return present

    @cached_property
    def class_positions(self) -> Tensor:
        """Each sample's row in ``classes`` (N,)."""
        return torch.searchsorted(self.classes, self.labels)

    @cached_property
    def class_counts(self) -> Tensor:
        """Samples in each class of ``classes`` (K,) int64."""
        return torch.bincount(self.class_positions, minlength=len(self.classes))

    @cached_property
    def class_means(self) -> Tensor:
        """(K, d) float64, in the order of ``classes``."""
        return self._class_means_of(self.features)

    @cached_property
    def class_logit_means(self) -> Tensor:
        """Mean logits of each class (K, C) float64, in the order of ``classes``."""
        return self._class_means_of(self.logits)

    def _class_means_of(self, rows: Tensor) -> Tensor:
        sums = linalg.class_sums(rows, self.class_positions, len(self.classes))
        return sums / self.class_counts[:, None]

    @cached_property
    def mean(self) -> Tensor:
        """Mean of all samples (d,) float64."""
        if self._labels is None:
            return linalg.row_mean(self.features)
        return self.class_counts.double() @ self.class_means / len(self)

    @cached_property
    def near_mean(self) -> Tensor:
        """`mean` (d,) where there is one, else to float32's digits: for detectors that only rank by it."""
        there = {"mean", "class_means"} & vars(self).keys()
        return self.mean if there else linalg.near_mean(self.features)

    @cached_property
    def global_mean(self) -> Tensor:
        """Unweighted mean of the class means (d,) float64."""
        return self.class_means.mean(dim=0)

    @cached_property
    def within_covariance(self) -> Tensor:
        """Covariance around the own class mean, tied over classes, over N (d, d) float64."""
        return scatter.centered_scatter(self.features, self.class_means, self.class_positions) / len(self)

    @cached_property
    def covariance(self) -> Tensor:
        """Covariance around ``mean``, over N (d, d) float64."""
        if self._labels is None:
            return scatter.centered_scatter(self.features, self.mean) / len(self)
        # Within plus between is a sum of positive terms, so it costs no second pass and no digits.
        offsets = (self.class_means - self.mean) * self.class_counts[:, None].double().sqrt()
        return self.within_covariance + offsets.T @ offsets / len(self)

    @cached_property
    def within_eigen(self) -> linalg.Eigen:
        """Eigen-decomposition of ``within_covariance``, largest first."""
        return linalg.eigen(self.within_covariance)

    @cached_property
    def eigen(self) -> linalg.Eigen:
        """Eigen-decomposition of ``covariance``, largest first."""
        return linalg.eigen(self.covariance)

    @cached_property
    def within_whitening(self) -> Tensor:
        """W (d, r) with W W' the pseudo-inverse of ``within_covariance``."""
        return whitening(self.within_covariance, lambda: self.within_eigen)

    @cached_property
    def total_whitening(self) -> Tensor:
        """W (d, r) with W W' the pseudo-inverse of ``covariance``."""
        return whitening(self.covariance, lambda: self.eigen)

    @cached_property
    def head_origin(self) -> Tensor:
        """The point at which the head gives zero logits (d,) float64."""
        return linalg.head_origin(*self.head)

    @cached_property
    def eigen_at_head_origin(self) -> linalg.Eigen:
        """Eigen-decomposition of the second moment around ``head_origin``, largest first."""
        offset = self.mean - self.head_origin
        return linalg.eigen(self.covariance + torch.outer(offset, offset))


class TapQueries(Inputs):
    """Samples to score at one tap.

    Args:
        features: (B, d), or None for detectors of logits alone.
        logits: (B, C), or None.
        head: what computes the logits where they are not given; detectors else use the head they were fitted with.

    Raises:
        UserError: shapes disagree.

    Example:
        >>> TapQueries([[1.0, 2.0]], head=([[1.0, 1.0], [1.0, -1.0]], None)).predictions
        tensor([0])
    """

    knows = frozenset({"features", "logits"})

    def __init__(
        self, features: ArrayLike | None, *, logits: ArrayLike | None = None, head: GivenHead | None = None
    ) -> None:
        super().__init__(features, logits, head)
        self._shared: dict[Hashable, Any] = {}

    def with_head(self, head: Head | None) -> TapQueries:
        """These queries, with logits from ``head`` where they have none; they themselves stay as they are."""
        if head is None or "logits" in self.available or self._features is None:
            return self
        view = TapQueries(self._features, head=head)
        view._origin = self._origin
        view._shared = self._shared
        return view

    def shared(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return what ``compute`` gave the first time ``key`` was asked for with these queries."""
        if key not in self._shared:
            self._shared[key] = compute()
        result: T = self._shared[key]
        return result

    def deliver(self, scores: Tensor) -> Tensor:
        """Scores as the caller gets them: on the device of the inputs."""
        return scores.to(self._origin, torch.float32 if self._origin.type == "mps" else torch.float64)
