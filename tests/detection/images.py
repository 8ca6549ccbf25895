"""The harness of input detectors' tests: classifiers with images, and one call that holds a detector against an oracle.

An oracle gets one image at a time and the float64 network; it is written as the paper has it, slow and obvious.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ood_nc.detection import InputDetector, create_detector
from ood_nc.detection.testing.image_problem import make_image_problem

Oracle = Callable[..., float]


@dataclass(frozen=True)
class Images:
    """A classifier in float64 and in eval mode, ID train images with labels, and images to score."""

    name: str
    network: nn.Module
    images: Tensor
    labels: Tensor
    queries: Tensor

    def batches(self, size: int = 10) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self.images.split(size), self.labels.split(size), strict=True))


class Residual(nn.Module):
    """A stem, three residual blocks of two sizes that share one activation module, and a head without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.activation = nn.ReLU()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.narrow = nn.Conv2d(6, 6, 3, padding=1)
        self.down = nn.Conv2d(6, 10, 3, stride=2, padding=1)
        self.last = nn.Sequential(nn.Conv2d(10, 10, 3, padding=1), nn.BatchNorm2d(10))
        self.flat = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(10, 5, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.activation(self.stem(images))
        maps = maps + self.activation(self.narrow(maps))
        maps = self.activation(self.down(maps))
        return self.fc(self.flat(torch.relu(maps + self.last(maps))))


def residual() -> Images:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = Residual().double().eval()
        network.fc.weight.data.mul_(20)
        network.last[1].running_mean.normal_()
        images, queries = torch.randn(60, 3, 9, 7).double(), torch.randn(12, 3, 9, 7).double()
    with torch.no_grad():
        labels = network(images).argmax(dim=1)
    return Images("residual", network, images, labels, queries)


def tiny() -> Images:
    problem = make_image_problem()
    # Two classes at once: unlike the problem's own OOD images, these leave no feature map all zero.
    queries = torch.cat([problem.queries[:6], 0.6 * (problem.queries[6:12] + problem.queries[7:13])])
    return Images("tiny", problem.network, problem.images, problem.labels, queries)


PROBLEMS = (tiny(), residual())


def fitted(name: str, problem: Images, **hyperparameters: Any) -> InputDetector:
    """The detector, fitted on the problem's train images."""
    return create_detector(name, **hyperparameters).fit(problem.network, problem.batches())


def softmax(logits: np.ndarray) -> np.ndarray:
    """Of one row."""
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def logits_of(network: nn.Module, image: Tensor) -> np.ndarray:
    """Logits (C,) of one image."""
    with torch.no_grad():
        return network(image[None])[0].numpy()


def captured(network: nn.Module, layer: str, image: Tensor) -> Tensor:
    """What a layer gave for one image (no batch axis), the last time it ran."""
    kept: list[Tensor] = []
    handle = network.get_submodule(layer).register_forward_hook(lambda *a: kept.append(a[2][0].detach()))
    logits_of(network, image)
    handle.remove()
    return kept[-1]


def agreement_test(
    name: str, oracle: Oracle, *variants: Mapping[str, Any], tolerance: float = 1e-5
) -> Callable[..., None]:
    """A test of ``name`` against ``oracle(problem, image, **variant)``, image by image."""

    @pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
    @pytest.mark.parametrize("variant", variants or ({},), ids=lambda variant: str(dict(variant)) or "defaults")
    def test(variant: Mapping[str, Any], problem: Images) -> None:
        scores = fitted(name, problem, **variant).score(problem.queries).numpy()
        expected = np.array([oracle(problem, image, **variant) for image in problem.queries])
        assert len(set(np.round(expected, 12))) > len(expected) // 2, "the oracle tells no images apart"
        np.testing.assert_allclose(scores, expected, rtol=tolerance, atol=tolerance * float(np.abs(expected).mean()))

    return test


def peer(name: str) -> Any:
    """A class of pytorch-ood, where that is installed."""
    return getattr(pytest.importorskip("pytorch_ood.detector"), name)
