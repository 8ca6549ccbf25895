"""What an input detector is: it reads images through the network, where a feature detector reads cached features.

A new one is one file: subclass :class:`InputDetector`, give ``name``, ``info`` and ``requires``, declare its
hyper-parameters (:mod:`ood_nc.detection.kit.parameters`), put what ``_fit`` learns into attributes that end in an
underscore, and write ``_score``. Images come checked, on the network's device and in its dtype.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ood_nc.arrays import ArrayLike, as_labels, as_tensor
from ood_nc.detection.base import BaseDetector
from ood_nc.detection.errors import MissingInputError
from ood_nc.detection.network import Network
from ood_nc.errors import NotFittedError, UserError

Self = TypeVar("Self", bound="InputDetector")


class Batch(NamedTuple):
    """Images on the network's device, and their class indices (B,)."""

    images: Tensor
    labels: Tensor


class Batches:
    """ID train data, batch by batch, checked on the way; it may be read several times.

    Args:
        network: what the images are for.
        batches: a re-iterable of (images, labels), such as a data loader without shuffling.

    Raises:
        UserError: an iterator, which can be read only once.
    """

    def __init__(self, network: Network, batches: Iterable[Any], detector: str, with_labels: bool) -> None:
        if iter(batches) is batches:
            raise UserError("batches must be a re-iterable (a list or a data loader): an iterator is read only once.")
        self._network = network
        self._batches = batches
        self._detector = detector
        self._with_labels = with_labels

    def __iter__(self) -> Iterator[Batch]:
        row = 0
        for pair in self._batches:
            given, labels = _split(pair)
            images = self._network.prepare(given, row)
            row += len(images)
            if labels is None and self._with_labels:
                raise MissingInputError(self._detector, {"labels"}, {"network", "labels"}, "fit")
            classes = torch.full((len(images),), -1) if labels is None else as_labels(labels, len(images))
            if len(images):
                yield Batch(images, classes.to(images.device))
        if row == 0:
            raise UserError("There are no train samples to fit on.")

    def first(self) -> Tensor:
        """Images of the first batch."""
        return next(iter(self)).images


def _split(batch: Any) -> tuple[Any, Any]:
    """Images and labels, None where the batch has none."""
    if isinstance(batch, (torch.Tensor, np.ndarray)):
        return batch, None
    if not isinstance(batch, (tuple, list)) or len(batch) not in (1, 2):
        raise UserError(f"Each batch must be a pair (images, labels), got {type(batch).__name__}.")
    return batch[0], batch[1] if len(batch) == 2 else None


class InputDetector(BaseDetector):
    """Base of all input detectors.

    A score depends on its image alone: the network runs in eval mode, and gradients are of the sum over the batch,
    which gives each image its own. The network is not part of the state, nor of a copy or a pickle: ``attach`` it.

    Class attributes, beside those of :class:`BaseDetector`:
        requires: of "network", "labels" (with the train images), "layers" (feature maps, found or named) and "dropout"
            (the network was trained with dropout in front of its head, for which the user vouches).

    Example:
        >>> from ood_nc.detection import create_detector
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
        >>> create_detector("odin", temperature=1.0, epsilon=0.0).fit(network).score(torch.zeros(1, 1, 2, 2))
        tensor([0.5000], dtype=torch.float64)
    """

    kind: ClassVar[str] = "input"
    inputs: ClassVar[frozenset[str]] = frozenset({"network", "labels", "layers", "dropout"})
    _network: Network | None = None

    def fit(self: Self, network: Network | nn.Module, batches: Iterable[Any] | None = None) -> Self:
        """Attach the network and learn from ID train data.

        Args:
            network: the classifier.
            batches: a re-iterable of (images, labels), or of images alone where no labels are required; not looked at
                where nothing is learnt.

        Raises:
            MissingInputError: something in ``requires`` is missing.
            UserError: batches that can be read only once, labels that do not fit, images that are not finite, an
                unknown layer, or a hyper-parameter out of range.
        """
        self._settle_parameters()
        if self.needs_fit and batches is None:
            raise MissingInputError(self.name, {"batches"}, self.requires | {"batches"}, "fit")
        with self._learning():
            self.attach(network)
            if self.needs_fit and batches is not None:
                self._fit(self.network, Batches(self.network, batches, self.name, "labels" in self.requires))
        return self

    def attach(self: Self, network: Network | nn.Module) -> Self:
        """Give the network to read through, after loading or copying; it must be the one ``fit`` saw.

        Raises:
            UserError: not a module, or it lacks a layer that is named or that ``fit`` used.
        """
        adapter = network if isinstance(network, Network) else Network(network)
        for name in (*(getattr(self, "layers", None) or ()), *getattr(self, "layers_", ())):
            adapter.layer(name)
        self._network = adapter
        return self

    def score(self, images: ArrayLike) -> Tensor:
        """Score images, each independently of the others.

        Args:
            images: (B, ...) floating-point, preprocessed as the network expects.

        Returns:
            (B,) float64 on the input's device (float32 where the device has no float64); larger = more
            in-distribution.

        Raises:
            NotFittedError: ``fit`` was not called.
            MissingInputError: no network is attached.
            NonFiniteError: an image holds NaN or infinity, or a score would.
            UserError: images or network do not fit.
        """
        if not self.is_fitted:
            raise NotFittedError(self.name)
        self._settle_parameters()
        network = self.network
        origin = as_tensor(images, "images").device
        prepared = network.prepare(images)
        dtype = torch.float32 if origin.type == "mps" else torch.float64
        if len(prepared) == 0:
            return torch.empty(0, dtype=dtype, device=origin)
        if network.device.type != "mps":
            self.to(network.device)
        with self._computing():
            return self._checked_scores(self._score(network, prepared).detach()).to(origin, dtype)

    @property
    def network(self) -> Network:
        """The attached network.

        Raises:
            MissingInputError: none is attached.
        """
        if self._network is None:
            raise MissingInputError(self.name, {"network"}, self.requires, "score")
        return self._network

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_network"}

    def _chosen_layers(self, network: Network, images: Tensor) -> tuple[str, ...]:
        """The hyper-parameter ``layers``, or the network's stages where it is None."""
        named: tuple[str, ...] | None = getattr(self, "layers", None)
        return network.stages(images) if named is None else tuple(named)

    # What a detector writes: _score, and of _fit and _check_parameters those it needs.

    def _fit(self, network: Network, batches: Batches) -> None:
        """Learn; keep results in attributes that end in an underscore (tensors or plain values)."""

    @abstractmethod
    def _score(self, network: Network, images: Tensor) -> Tensor:
        """Return (B,) scores of B >= 1 checked images."""
