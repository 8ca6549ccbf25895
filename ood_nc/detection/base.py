"""What a detector is: ``fit`` on ID train data, ``score`` new samples, larger = more in-distribution.

A new detector is one file: subclass :class:`Detector`, give ``name``, ``info`` and ``requires``, keep every
hyper-parameter of ``__init__`` under its own name, put what ``_fit`` learns into attributes that end in an underscore,
and write ``_score``. Storing, loading, cloning, and the checks of inputs, devices and dtypes come from here.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from ood_nc.arrays import ArrayLike
from ood_nc.detection.context import TapQueries, TapStatistics
from ood_nc.detection.errors import MissingInputError, NotFittedError
from ood_nc.detection.head import Head
from ood_nc.errors import UserError, nearest

Self = TypeVar("Self", bound="Detector")
INPUTS = frozenset({"features", "labels", "logits", "head", "nonnegative"})
_FORMAT = 1


@dataclass(frozen=True)
class DetectorInfo:
    """What a user wants to know before choosing a detector.

    Attributes:
        title: of the paper, or a short name where there is none.
        venue: where and when it appeared.
        url: of the paper.
        needs: what it works from, in words.
        domain: the values a score can take.
        cost: of fit and score, in N train samples, B queries, d dimensions, C classes.
    """

    title: str
    venue: str
    url: str
    needs: str
    domain: str
    cost: str


class Detector(ABC):
    """Base of all detectors.

    Class attributes:
        name: in the registry.
        info: paper, needs, sign domain, cost.
        requires: what ``fit`` or ``score`` must be given, of "features", "labels", "logits", "head", "nonnegative"
            (features without negative entries). Logits are computed where a head is given and they are not.
        needs_fit: False where nothing is learnt and ``score`` may be called at once.
    """

    name: ClassVar[str]
    info: ClassVar[DetectorInfo]
    requires: ClassVar[frozenset[str]]
    needs_fit: ClassVar[bool] = True
    _head: Head | None = None

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
            UserError: shapes disagree, a value is not finite, or a hyper-parameter is out of range.
        """
        if isinstance(features, TapStatistics):
            train = features
        else:
            train = TapStatistics(features, labels, logits=logits, head=head)
        self._check_parameters()
        self._check_inputs(train, "fit")
        self._forget()
        self._head = train.head if train.has_head else None
        try:
            with torch.no_grad():
                self._fit(train)
        except BaseException:
            self._forget()
            raise
        if "features" in self.requires:
            self.num_features_ = train.dim
        return self

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
            UserError: shapes disagree, or a value is not finite.
        """
        if self.needs_fit and not self.is_fitted:
            raise NotFittedError(self.name)
        self._check_parameters()
        queries = features if isinstance(features, TapQueries) else TapQueries(features, logits=logits)
        queries = queries.with_head(self._head)
        self._check_inputs(queries, "score")
        with torch.no_grad():
            return queries.deliver(self.to(queries.device)._score(queries))

    @property
    def is_fitted(self) -> bool:
        """Whether ``score`` may be called."""
        return not self.needs_fit or bool(self._fitted())

    def hyperparameters(self) -> dict[str, tuple[Any, ...]]:
        """The values worth trying for each hyper-parameter; empty where there is nothing to choose."""
        return self._search_space()

    @property
    def head(self) -> Head:
        """The head given to ``fit``."""
        if self._head is None:
            raise NotFittedError(self.name)
        return self._head

    def to(self: Self, device: torch.device) -> Self:
        """Move everything learnt to a device; ``score`` does so by itself where its inputs are elsewhere."""
        for name, value in self._fitted().items():
            if isinstance(value, torch.Tensor):
                setattr(self, name, value.to(device))
        if self._head is not None:
            self._head = self._head.to(device)
        return self

    # What a detector writes: _score, and of the others those it needs.

    def _search_space(self) -> dict[str, tuple[Any, ...]]:
        """What :meth:`hyperparameters` returns."""
        return {}

    def _check_parameters(self) -> None:
        """Raise :class:`UserError` where a hyper-parameter is out of range."""
        return

    def _fit(self, train: TapStatistics) -> None:
        """Learn; keep results in attributes that end in an underscore (tensors or plain values)."""
        return

    @abstractmethod
    def _score(self, queries: TapQueries) -> Tensor:
        """Return (B,) scores of checked queries."""

    def _check_inputs(self, given: TapStatistics | TapQueries, where: str) -> None:
        wanted = self.requires & given.knows
        if where == "fit" and not self.needs_fit:
            # Logits may come with the queries instead, so an unfitted detector asks for them there.
            wanted = frozenset()
        missing = wanted - given.available
        if missing:
            raise MissingInputError(self.name, missing, self.requires, where)
        given.check(wanted)
        expected = getattr(self, "num_features_", None)
        if where == "score" and expected is not None and "features" in wanted and given.dim != expected:
            raise UserError(f"Detector {self.name!r} was fitted on {expected} features per sample, got {given.dim}.")
        if "nonnegative" in self.requires:
            given.check_nonnegative(self.name)

    # Hyper-parameters: the protocol of scikit-learn.

    @classmethod
    def parameter_names(cls) -> tuple[str, ...]:
        """The names of the hyper-parameters, in the order of ``__init__``."""
        parameters = inspect.signature(cls.__init__).parameters.values()
        return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The hyper-parameters by name (``deep`` is there for scikit-learn's sake)."""
        return {name: getattr(self, name) for name in self.parameter_names()}

    def set_params(self: Self, **parameters: Any) -> Self:
        """Set hyper-parameters by name.

        Raises:
            UserError: unknown name, or out of range.
        """
        known = self.parameter_names()
        for name, value in parameters.items():
            if name not in known:
                raise UserError(f"Detector {self.name!r} has no hyper-parameter {name!r}.{nearest(name, known)}")
            setattr(self, name, value)
        self._check_parameters()
        return self

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.get_params().items())
        return f"{type(self).__name__}({given})"

    # State: tensors and plain values only, so that it loads without pickle.

    def state_dict(self) -> dict[str, Any]:
        """The hyper-parameters and everything learnt, as tensors and plain values."""
        head = None if self._head is None else {"weight": self._head.weight, "bias": self._head.bias}
        return {
            "detector": self.name,
            "format": _FORMAT,
            "parameters": self.get_params(),
            "head": head,
            "fitted": self._fitted(),
        }

    def load_state_dict(self: Self, state: Mapping[str, Any]) -> Self:
        """Become the detector whose :meth:`state_dict` this is.

        Raises:
            UserError: the state is of another detector or another format.
        """
        if state.get("detector") != self.name:
            raise UserError(f"This state is of detector {state.get('detector')!r}, not of {self.name!r}.")
        if state.get("format") != _FORMAT:
            raise UserError(f"Detector {self.name!r}: state format {state.get('format')!r} is not {_FORMAT}.")
        self._forget()
        self.set_params(**state["parameters"])
        self._head = None if state["head"] is None else Head(state["head"]["weight"], state["head"]["bias"])
        for name, value in state["fitted"].items():
            setattr(self, name, value)
        return self

    def _fitted(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name.endswith("_") and not name.startswith("_")}

    def _forget(self) -> None:
        kept = self.parameter_names()
        for name in [name for name in vars(self) if name not in kept]:
            delattr(self, name)
