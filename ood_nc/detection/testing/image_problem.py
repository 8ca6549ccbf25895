"""A tiny, seeded image classifier and images that it can tell apart; the checks of input detectors run on it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ood_nc.detection.input_base import InputDetector

_CLASSES = 4
_SIZE = 8


class TinyNetwork(nn.Module):
    """Two convolutional stages with batch norm, pooling, dropout and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(16, _CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, 4) of images (B, 3, 8, 8)."""
        logits: Tensor = self.head(self.features(images))
        return logits

    def features(self, images: Tensor) -> Tensor:
        """What the head reads (B, 16)."""
        features: Tensor = self.dropout(self.pool(self.stage2(self.stage1(images))).flatten(1))
        return features


@dataclass(frozen=True)
class ImageProblem:
    """A trained network in float64, ID train images with labels, and ID and OOD images to score."""

    network: TinyNetwork
    images: Tensor
    labels: Tensor
    queries: Tensor
    ood: Tensor

    def batches(self, size: int = 32) -> list[tuple[Tensor, Tensor]]:
        """The train data as a list of batches."""
        return list(zip(self.images.split(size), self.labels.split(size), strict=True))

    @property
    def rows(self) -> Tensor:
        """The train data without labels."""
        return self.images

    def fit(
        self,
        detector: InputDetector,
        rows: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        view: Callable[[Tensor], Any] = lambda images: images,
    ) -> InputDetector:
        """Fit with everything the problem has, or on other images and labels; shown as ``view`` shows them."""
        if rows is not None or labels is not None:
            batches = [(self.images if rows is None else rows, self.labels if labels is None else labels)]
        else:
            batches = [(view(images), labels) for images, labels in self.batches()]
        return detector.fit(self.network, batches)

    def given(self, images: Tensor, view: Callable[[Tensor], Any] = lambda images: images) -> dict[str, Any]:
        """The arguments of ``score`` for such images."""
        return {"images": view(images)}


def make_image_problem(seed: int = 0) -> ImageProblem:
    """A seeded problem whose parts are the caller's own."""
    return copy.deepcopy(_image_problem(seed))


@cache
def _image_problem(seed: int) -> ImageProblem:
    rng = torch.Generator().manual_seed(seed)
    patterns = torch.randn(_CLASSES, 3, _SIZE, _SIZE, generator=rng, dtype=torch.float64)
    labels = torch.arange(96) % _CLASSES

    def samples(chosen: Tensor) -> Tensor:
        noise = torch.randn(len(chosen), 3, _SIZE, _SIZE, generator=rng, dtype=torch.float64)
        return patterns[chosen] + 0.4 * noise

    def noise(count: int) -> Tensor:
        return 0.7 * torch.randn(count, 3, _SIZE, _SIZE, generator=rng, dtype=torch.float64)

    images, queries = samples(labels), samples(labels[:24])
    network = _trained(images, labels, noise(len(images)), rng)
    return ImageProblem(network, images, labels, queries, noise(24))


def _trained(images: Tensor, labels: Tensor, outliers: Tensor, rng: torch.Generator) -> TinyNetwork:
    """A classifier whose features are small on outliers, so that each detector's premise holds.

    The class weights sum to zero and there is no bias, so that small features give the smallest possible energy.
    """
    with torch.random.fork_rng(devices=[]):
        network = TinyNetwork().double()
    with torch.inference_mode(False), torch.enable_grad():
        _initialise(network, rng)
        network.train()
        network.dropout.eval()
        optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
        for _ in range(60):
            features = network.features(torch.cat([images, outliers]))
            loss = nn.functional.cross_entropy(network.head(features[: len(images)]), labels)
            loss = loss + features[len(images) :].square().sum(dim=1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            _center(network)
    optimizer.zero_grad()
    return network.eval()


def _initialise(network: TinyNetwork, rng: torch.Generator) -> None:
    for parameter in network.parameters():
        if parameter.ndim > 1:
            drawn = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
            parameter.data.copy_(drawn / parameter[0].numel() ** 0.5)


def _center(network: TinyNetwork) -> None:
    with torch.no_grad():
        network.head.bias.zero_()
        network.head.weight.sub_(network.head.weight.mean(dim=0))
