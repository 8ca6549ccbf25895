"""A small network on bundled digits, and a detector fitted on it once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ood_nc.data import ImageDataset, open_dataset
from ood_nc.deployment import Detector, fit_detector
from ood_nc.models import ControlledModel


def make_model(seed: int = 0, **options: object) -> ControlledModel:
    torch.manual_seed(seed)
    settings = {"taps": ("layer2", "encoder", "projector"), "img_size": 16, **options}
    model = ControlledModel("cifar_resnet20", 5, **settings)
    model.class_names = tuple("01234")
    model.head_is_fresh = False
    # Statistics of the batch norms that fit the data, as a trained network has them.
    images = torch.stack([image_tensor(model, digits("train"), index) for index in range(64)])
    model.train()
    with torch.no_grad():
        for _ in range(10):
            model(images)
    return model.eval()


def digits(part: str) -> ImageDataset:
    return open_dataset(f"bundled/digits-id::{part}")


def near() -> ImageDataset:
    return open_dataset("bundled/digits-near")


def image_tensor(model: ControlledModel, dataset: ImageDataset, index: int) -> torch.Tensor:
    from ood_nc.data import eval_transform

    return eval_transform(model.preprocessing)(dataset.load(index))


def halves(dataset: ImageDataset, seed: int = 0) -> tuple[ImageDataset, ImageDataset]:
    order = np.random.default_rng(seed).permutation(len(dataset))
    cut = len(dataset) // 2
    return dataset.subset(order[:cut]), dataset.subset(order[cut:])


@pytest.fixture(scope="session")
def model() -> ControlledModel:
    return make_model()


@pytest.fixture(scope="session")
def fitted(model: ControlledModel) -> Detector:
    held_out, _ = halves(digits("test"))
    return fit_detector(model, digits("train"), held_out, detectors=["mahalanobis"], taps=["encoder"])
