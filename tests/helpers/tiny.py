"""A tiny model on bundled images, and how its results are looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ood_nc.data import ImageDataset, eval_transform, open_dataset
from ood_nc.evaluation import Results, evaluate
from ood_nc.features import extract
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


def value(results: Results, **equals: Any) -> float:
    (row,) = results.select(**equals)
    assert row["value"] is not None, row["reason"]
    return float(row["value"])


def bank(model: ControlledModel, dataset: ImageDataset) -> Any:
    return extract(model, dataset.with_transform(eval_transform(model.preprocessing)))


def column(results: Results, group: str, dataset: str, name: str) -> np.ndarray:
    table = results.scores
    inside = (np.array(table["group"]) == group) & (np.array(table["dataset"]) == dataset)
    return np.array(table[name].to_pylist(), dtype=object)[inside].astype(float)


def write_images(folder: Path, n: int, *, broken: int = 0, seed: int = 0) -> None:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    for index in range(n):
        Image.fromarray(generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    for index in range(broken):
        (folder / f"broken{index}.png").write_bytes(b"no image")


def run_few(model: ControlledModel, **options: Any) -> Results:
    given = {**arguments(), "probes": [], "bootstrap": 0, "transfer": {}, **options}
    return evaluate(model, **given)


def features_of(model: ControlledModel, dataset: Any, tap: str) -> Any:
    return extract(model, dataset.with_transform(eval_transform(model.preprocessing))).taps[tap]


def validation() -> Any:
    whole = part("bundled/digits-id::test", 200)
    return whole.subset(range(120, 200))
