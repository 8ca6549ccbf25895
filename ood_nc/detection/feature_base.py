"""What a detector is: ``fit`` on ID train data, ``score`` new samples, larger = more in-distribution.

A new detector is one file: subclass :class:`FeatureDetector`, give ``name``, ``info`` and ``requires``, declare its
hyper-parameters (:mod:`ood_nc.detection.kit.parameters`), put what ``_fit`` learns into attributes that end in an
underscore, and write ``_score_rows`` (or ``_score``). Storing, loading, cloning, and the checks of inputs, devices and
dtypes come from here.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from ood_nc.arrays import ArrayLike, without_autocast
from ood_nc.detection.base import BaseDetector
from ood_nc.detection.context import TapQueries, TapStatistics
from ood_nc.detection.errors import MissingInputError
from ood_nc.detection.head import Head
from ood_nc.detection.kit import linalg
from ood_nc.errors import NotFittedError, UserError

Self = TypeVar("Self", bound="FeatureDetector")


@functools.cache
def _parameters(method: Callable[..., Any]) -> list[str]:
    """The names of a method's parameters after self."""
    return list(inspect.signature(method).parameters)[1:]


class FeatureDetector(BaseDetector):
    """Base of all feature detectors: they work from cached features and logits, and never see the network.

    Class attributes, beside those of :class:`BaseDetector`:
        requires: what ``fit`` or ``score`` must be given, of "features", "labels", "logits", "head", "nonnegative"
            (features without negative entries). Logits are computed where a head is given and they are not.
        closed_form: whether ``trace`` gives the scores as one graph of tensor operations (a search is none).

    Example:
        >>> from ood_nc.detection import create_detector
        >>> features, labels = [[0.0, 1.0], [2.0, -1.0], [8.0, 1.0], [10.0, -1.0]], [0, 0, 1, 1]
        >>> create_detector("class_mean_cosine", center=True).fit(features, labels).score([[7.0, 0.0], [5.0, 3.0]])
        tensor([1., 0.], dtype=torch.float64)
    """

    kind: ClassVar[str] = "feature"
    inputs: ClassVar[frozenset[str]] = frozenset({"features", "labels", "logits", "head", "nonnegative"})
    closed_form: ClassVar[bool] = True
    _head: Head | None = None

    @without_autocast()
    def fit(
        self: Self,
        features: ArrayLike | TapStatistics | None,
        labels: ArrayLike | None = None,
        *,
        logits: ArrayLike | None = None,
        head: tuple[ArrayLike, ArrayLike | None] | None = None,
    ) -> Self:
        """Learn from ID train data.

        Args:
            features: (N, d), or a :class:`TapStatistics` that several detectors share (then give nothing else).
            labels: class indices, shape (N,).
            logits: (N, C); computed from ``head`` where missing.
            head: weight (C, d) and bias (C,) or None (counts as zero) of the linear head that reads these features.

        Raises:
            MissingInputError: something in ``requires`` is missing.
            UserError: shapes disagree, a value is not finite, a hyper-parameter is out of range, or the numbers are too
                large to compute with.
        """
        if isinstance(features, TapStatistics):
            train = features
        else:
            train = TapStatistics(features, labels, logits=logits, head=head)
        self._settle_parameters()
        self._check_inputs(train, "fit")
        with self._learning():
            self._head = train.head if train.has_head else None
            self._fit(train)
        if "features" in self.requires:
            self.num_features_ = train.dim
        if "logits" in self.requires & train.available:
            self.num_logits_ = train.num_logits
        return self

    @without_autocast()
    def score(self, features: ArrayLike | TapQueries | None, *, logits: ArrayLike | None = None) -> Tensor:
        """Score samples, each independently of the others.

        Args:
            features: (B, d), or a :class:`TapQueries` that several detectors share (then give nothing else).
            logits: (B, C); computed from the head given to ``fit`` where missing.

        Returns:
            (B,) float64 on the input's device (float32 where the device has no float64); larger = more
            in-distribution.

        Raises:
            NotFittedError: ``fit`` was not called.
            MissingInputError: something in ``requires`` is missing.
            NonFiniteError: an input is not finite, or a score would not be.
            UserError: shapes disagree, among themselves or with those of ``fit``.
        """
        if not self.is_fitted:
            raise NotFittedError(self.name)
        self._settle_parameters()
        queries = features if isinstance(features, TapQueries) else TapQueries(features, logits=logits)
        queries = queries.with_head(self._head)
        self._check_inputs(queries, "score")
        with self._computing():
            return queries.deliver(self._checked_scores(self.to(queries.device)._score(queries)))

    def trace(self, features: Tensor | None, logits: Tensor | None = None) -> Tensor:
        """The scores as tensor operations alone, for ``torch.export``: nothing is checked, moved or converted.

        Args:
            features: (B, d).
            logits: (B, C); computed from the head given to ``fit`` where missing.

        Returns:
            (B,) float64.
        """
        return self._score(TapQueries(features, logits=logits).with_head(self._head))

    @property
    def head(self) -> Head:
        """The head given to ``fit``."""
        if self._head is None:
            raise NotFittedError(self.name)
        return self._head

    def to(self: Self, device: torch.device) -> Self:
        """Move everything learnt to a device; ``score`` does so by itself where its inputs are elsewhere."""
        super().to(device)
        if self._head is not None:
            self._head = self._head.to(device)
        return self

    # What a detector writes: _score_rows, and of _fit, _score and _check_parameters those it needs.

    _score_rows: Callable[..., Tensor]
    """Scores (B,) of some rows; its parameters name what it reads of :class:`TapQueries` (features, logits, ...)."""

    def _fit(self, train: TapStatistics) -> None:
        """Learn; keep results in attributes that end in an underscore (tensors or plain values)."""

    def _score(self, queries: TapQueries) -> Tensor:
        """Return (B,) scores of checked queries: those of ``_score_rows``, a chunk of rows at a time."""
        parts = (getattr(queries, part) for part in _parameters(type(self)._score_rows))
        return linalg.by_chunks(self._score_rows, *parts)

    def _check_inputs(self, given: TapStatistics | TapQueries, where: str) -> None:
        wanted = self.requires & given.knows
        if where == "fit" and not self.needs_fit:
            # Logits may come with the queries instead, so an unfitted detector asks for them there.
            wanted = frozenset()
        missing = wanted - given.available
        if missing:
            raise MissingInputError(self.name, missing, self.requires, where)
        if where == "score":
            self._check_widths(given, wanted)
        given.check(wanted)
        if isinstance(given, TapStatistics) and self.fits_on_held_out:
            given.calibration.check(wanted)
        if "nonnegative" in self.requires:
            given.check_nonnegative(self.name)

    def _check_widths(self, given: TapStatistics | TapQueries, wanted: frozenset[str]) -> None:
        for name, width in (("features", "dim"), ("logits", "num_logits")):
            fitted = getattr(self, f"num_{name}_", None)
            if name in wanted and fitted not in (None, getattr(given, width)):
                raise UserError(
                    f"Detector {self.name!r} was fitted on {fitted} {name} per sample, got {getattr(given, width)}."
                )

    def _further_state(self) -> dict[str, Any]:
        head = None if self._head is None else {"weight": self._head.weight, "bias": self._head.bias}
        return {"head": head}

    def _load_further_state(self, state: Mapping[str, Any]) -> None:
        self._head = None if state["head"] is None else Head(state["head"]["weight"], state["head"]["bias"])
