"""One evaluation of a tiny model on bundled images, shared by the tests that look at different parts of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ood_nc.data import ImageDataset, open_dataset
from ood_nc.evaluation import Results, evaluate
from ood_nc.models import ControlledModel


def tiny_model(classes: int = 5, **options: Any) -> ControlledModel:
    torch.manual_seed(0)
    options = {"taps": ("layer2", "encoder", "projector"), "img_size": 32, **options}
    model = ControlledModel(options.pop("backbone", "test_resnet.r160_in1k"), num_classes=classes, **options)
    model.class_names = tuple(str(digit) for digit in range(classes))
    return model


def part(source: str, n: int) -> ImageDataset:
    """The first images of each class, about ``n`` in all."""
    dataset = open_dataset(source)
    each = max(1, n // dataset.num_classes) if dataset.num_classes else n
    rows = [np.flatnonzero(dataset.targets == label)[:each] for label in np.unique(dataset.targets)]
    return dataset.subset(np.sort(np.concatenate(rows)))


def arguments() -> dict[str, Any]:
    return {
        "id": part("bundled/digits-id::test", 60),
        "id_train": part("bundled/digits-id::train", 100),
        "ood": {"digits": part("bundled/digits-near", 50), "textures": part("bundled/textures", 50)},
        "groups": {"digits": "near", "textures": "far"},
        "transfer": {
            "more digits": (part("bundled/digits-transfer::train", 60), part("bundled/digits-transfer::test", 50))
        },
        "bootstrap": 30,
        "run": "tiny",
    }


class Counting:
    """Counts the images that pass through a model."""

    def __init__(self, model: ControlledModel) -> None:
        self.images = 0
        model.register_forward_pre_hook(self._count)

    def _count(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.images += len(inputs[0])


@pytest.fixture(scope="session")
def tiny() -> Callable[..., ControlledModel]:
    return tiny_model


@pytest.fixture(scope="session")
def model() -> ControlledModel:
    return tiny_model()


@pytest.fixture(scope="session")
def counter(model: ControlledModel) -> Counting:
    return Counting(model)


@pytest.fixture(scope="session")
def evaluated(model: ControlledModel, counter: Counting) -> Results:
    return evaluate(model, **arguments())
