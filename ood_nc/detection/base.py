"""What all detectors share, whatever they read: hyper-parameters, state, and what a user wants to know beforehand."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from ood_nc.detection.errors import check_finite
from ood_nc.detection.kit.parameters import Parameter
from ood_nc.errors import UserError, nearest

Self = TypeVar("Self", bound="BaseDetector")
_FORMAT = 1
_TOO_LARGE = "its input, or the network's output, is too large to compute with: scale it, or leave those samples out"


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

    Example:
        >>> from ood_nc.detection import detector_class
        >>> detector_class("knn").info.domain
        '(-inf, 0]; [-2, 0] when normalised'
    """

    title: str
    venue: str
    url: str
    needs: str
    domain: str
    cost: str


class BaseDetector(ABC):
    """Base of feature detectors and of input detectors.

    Class attributes:
        kind: "feature" (reads cached features and logits) or "input" (reads images, through the network).
        inputs: the words that ``requires`` may hold.
        name: in the registry.
        info: paper, needs, sign domain, cost.
        requires: what ``fit`` or ``score`` must be given.
        needs_fit: False where nothing is learnt and ``score`` may be called at once.
        fits_on_held_out: whether ``fit`` learns from held-out ID data (those must not calibrate a threshold then).

    Example:
        Hyper-parameters and state are the same for all:

        >>> from ood_nc.detection import create_detector
        >>> detector = create_detector("knn").set_params(k=1).fit([[1.0, 0.0], [0.0, 1.0]])
        >>> detector
        NearestNeighbors(k=1, normalize=True, index='flat', recall=0.99, bank_size=None,
                         balanced=False, per_class=False, seed=0)
        >>> create_detector("knn").load_state_dict(detector.state_dict()).score([[2.0, 0.0]])
        tensor([-0.], dtype=torch.float64)
    """

    kind: ClassVar[str]
    inputs: ClassVar[frozenset[str]]
    name: ClassVar[str]
    info: ClassVar[DetectorInfo]
    requires: ClassVar[frozenset[str]]
    needs_fit: ClassVar[bool] = True
    fits_on_held_out: ClassVar[bool] = False
    _declared: ClassVar[dict[str, Parameter[Any]]] = {}
    __signature__: ClassVar[inspect.Signature] = inspect.Signature()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        by_name = {name: value for base in reversed(cls.__mro__) for name, value in vars(base).items()}
        cls._declared = {name: value for name, value in by_name.items() if isinstance(value, Parameter)}
        kind = inspect.Parameter.KEYWORD_ONLY
        shown = [inspect.Parameter(name, kind, default=value.default) for name, value in cls._declared.items()]
        shown += [given for given in inspect.signature(cls.__init__).parameters.values() if given.kind is kind]
        cls.__signature__ = inspect.Signature(shown)

    def __init__(self, **parameters: Any) -> None:
        self._assign(parameters)

    @abstractmethod
    def fit(self: Self, *args: Any, **kwargs: Any) -> Self:
        """Learn from ID train data; each kind says from what."""

    @abstractmethod
    def score(self, *args: Any, **kwargs: Any) -> Tensor:
        """Score samples (B,), larger = more in-distribution; each kind says from what."""

    @property
    def is_fitted(self) -> bool:
        """Whether ``score`` may be called."""
        return not self.needs_fit or bool(self._fitted())

    def hyperparameters(self) -> dict[str, tuple[Any, ...]]:
        """The values worth trying for each hyper-parameter; empty where there is nothing to choose."""
        return {name: declared.search for name, declared in self._declared.items() if declared.search}

    def to(self: Self, device: torch.device) -> Self:
        """Move everything learnt to a device; ``score`` does so by itself where its inputs are elsewhere."""
        for name, value in self._fitted().items():
            setattr(self, name, _moved(value, device))
        return self

    def _check_parameters(self) -> None:
        """Raise :class:`UserError` where hyper-parameters, each within its range, do not fit each other."""
        return

    # What both kinds do before fit and score, and after.

    def _settle_parameters(self) -> None:
        """Turn NumPy scalars among the hyper-parameters into plain values, and check them all."""
        for name, value in self.get_params().items():
            plain = _plain(value)
            if plain is not value:
                setattr(self, name, plain)
        for name, declared in self._declared.items():
            declared.allowed.check(self, name)
        self._check_parameters()

    @contextmanager
    def _learning(self) -> Iterator[None]:
        """Nothing is learnt before; inside ``_fit`` learns, all of it or, where anything is wrong with it, nothing."""
        self._forget()
        try:
            with self._computing():
                yield
            self._check_learnt()
        except BaseException:
            self._forget()
            raise

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """No gradients inside; a decomposition that fails there becomes a :class:`UserError`."""
        try:
            with torch.no_grad():
                yield
        except torch.linalg.LinAlgError as error:
            reason = " ".join(str(error).split())
            raise UserError(f"Detector {self.name!r} cannot decompose a matrix: {_TOO_LARGE} ({reason}).") from error

    def _check_learnt(self) -> None:
        """Raise :class:`NonFiniteError` where what was learnt holds NaN or infinity."""
        for name, value in self._fitted().items():
            for part in value if isinstance(value, (tuple, list)) else (value,):
                if isinstance(part, (torch.Tensor, float)):
                    rows = torch.atleast_1d(torch.as_tensor(part))
                    check_finite(rows, f"{name} that detector {self.name!r} learnt", _TOO_LARGE)

    def _checked_scores(self, scores: Tensor) -> Tensor:
        """The scores; :class:`NonFiniteError` where one of them is NaN or infinite."""
        check_finite(scores, f"scores of detector {self.name!r}", _TOO_LARGE)
        return scores

    # Hyper-parameters: the protocol of scikit-learn.

    @classmethod
    def parameter_names(cls) -> tuple[str, ...]:
        """The names of the hyper-parameters, in the order in which they are declared."""
        return tuple(cls.__signature__.parameters)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The hyper-parameters by name (``deep`` is there for scikit-learn's sake)."""
        return {name: getattr(self, name) for name in self.parameter_names()}

    def set_params(self: Self, /, **parameters: Any) -> Self:
        """Set hyper-parameters by name.

        Raises:
            UserError: unknown name, or out of range.
        """
        self._assign(parameters)
        self._settle_parameters()
        return self

    def _assign(self, parameters: Mapping[str, Any]) -> None:
        known = self.parameter_names()
        for name, value in parameters.items():
            if name not in known:
                raise UserError(f"Detector {self.name!r} has no hyper-parameter {name!r}.{nearest(name, known)}")
            setattr(self, name, value)

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.get_params().items())
        return f"{type(self).__name__}({given})"

    # State: tensors and plain values only, so that it loads without pickle.

    def state_dict(self) -> dict[str, Any]:
        """The hyper-parameters and everything learnt, as tensors and plain values."""
        return {
            "detector": self.name,
            "format": _FORMAT,
            "parameters": {name: _plain(value) for name, value in self.get_params().items()},
            **self._further_state(),
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
        self._load_further_state(state)
        for name, value in state["fitted"].items():
            if not _is_learnt(name):
                raise UserError(f"Detector {self.name!r} learns nothing that is called {name!r}: the state is damaged.")
            setattr(self, name, value)
        return self

    def _further_state(self) -> dict[str, Any]:
        """What a kind keeps beside hyper-parameters and what was learnt."""
        return {}

    def _load_further_state(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`_further_state` gave."""
        return

    def _fitted(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if _is_learnt(name)}

    def _forget(self) -> None:
        kept = self.parameter_names()
        for name in [name for name in vars(self) if name not in kept]:
            delattr(self, name)


def _is_learnt(name: str) -> bool:
    return name.endswith("_") and not name.startswith("_")


def _plain(value: Any) -> Any:
    """The value with NumPy's scalars, also those in a tuple or list, as Python's; itself where it has none."""
    if isinstance(value, (tuple, list)):
        parts = [_plain(part) for part in value]
        return value if all(part is old for part, old in zip(parts, value, strict=True)) else type(value)(parts)
    is_scalar = isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0)
    return value.item() if is_scalar else value


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    return [_moved(part, device) for part in value] if isinstance(value, list) else value
