from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import InterpolationMode

from ood_nc.data import eval_transform, open_dataset
from ood_nc.features.cache_key import bank_key, canonical_text
from ood_nc.models import ControlledModel

PREPROCESSING = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic"}


class Node:
    def __init__(self, value: object) -> None:
        self.value = value


def ring() -> Node:
    first = Node(None)
    first.value = [Node(first)]
    return first


def power(base: float, exponent: float) -> float:
    return float(base**exponent)


def same_things() -> list[tuple[object, object]]:
    return [
        (Node({"a": 1, "b": [2.0]}), Node({"b": [2.0], "a": 1})),
        (ring(), ring()),
        ({"x", "y", "z"}, {"z", "y", "x"}),
        (torch.arange(3), torch.arange(3)),
        (np.arange(3), np.arange(3)),
        (InterpolationMode.BICUBIC, InterpolationMode.BICUBIC),
        (functools.partial(power, exponent=2), functools.partial(power, exponent=2)),
        (torch.float16, torch.float16),
        (power, power),
        (eval_transform(PREPROCESSING), eval_transform(PREPROCESSING)),
    ]


@pytest.mark.parametrize(("one", "other"), same_things())
def test_equal_things_are_described_alike(one: object, other: object) -> None:
    assert canonical_text(one) == canonical_text(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Node(1), Node(2)),
        (Node(1), Node(True)),
        (1, 1.0),
        ("1", 1),
        ([1, 2], (1, 2)),
        ([1, 2], [2, 1]),
        (torch.arange(3), torch.arange(3).float()),
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        (InterpolationMode.BICUBIC, InterpolationMode.BILINEAR),
        (functools.partial(power, exponent=2), functools.partial(power, exponent=3)),
        (torch.float16, torch.bfloat16),
        (eval_transform(PREPROCESSING), eval_transform(PREPROCESSING | {"mean": (0.4,) * 3})),
        (eval_transform(PREPROCESSING), eval_transform(PREPROCESSING | {"crop_pct": 0.5})),
        (eval_transform(PREPROCESSING), eval_transform(PREPROCESSING | {"interpolation": "nearest"})),
    ],
)
def test_different_things_are_told_apart(one: object, other: object) -> None:
    assert canonical_text(one) != canonical_text(other)


def test_what_cannot_be_described_equals_nothing() -> None:
    def local(image: object) -> object:
        return image

    for value in (lambda image: image, local, object(), Node(lambda image: image)):
        assert canonical_text(value) != canonical_text(value)


def test_code_that_was_edited_is_other_code() -> None:
    def written(body: str) -> list[object]:
        """A function and an object, as the cell of a notebook makes them."""
        held: dict[str, Any] = {"__name__": "notebook"}
        exec(f"def prepare(image):\n    return {body}\nclass Prepare:\n    __call__ = prepare", held)
        return [held["prepare"], held["Prepare"]()]

    for one, same, other in zip(written("image * 2"), written("image * 2"), written("image * 3"), strict=True):
        assert canonical_text(one) == canonical_text(same) != canonical_text(other)


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.scale = 1.0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images).mean((2, 3)) * self.scale


def other_code(self: Own, images: torch.Tensor) -> torch.Tensor:
    return self.layers(images).amax((2, 3)) * self.scale


def key_of(model: nn.Module) -> str:
    return bank_key(model, open_dataset("bundled/digits-id::test"), weights="the same")


def test_a_network_of_ones_own_is_known_by_its_code_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def own(change: Callable[[Own], None] = lambda module: None) -> ControlledModel:
        module = Own()
        change(module)
        return ControlledModel(module, 5, img_size=16)

    def other_layer(place: int, layer: nn.Module) -> Callable[[Own], None]:
        return lambda module: module.layers.__setitem__(place, layer)

    keys = [
        key_of(own()),
        key_of(own(other_layer(1, nn.GELU()))),
        key_of(own(other_layer(0, nn.Conv2d(3, 4, 3, stride=2)))),
        key_of(own(lambda module: setattr(module, "scale", 2.0))),
        key_of(own(lambda module: setattr(module, "act", torch.tanh))),
    ]
    assert key_of(own()) == key_of(own(lambda module: setattr(module, "last", torch.ones(1)))) == keys[0]
    monkeypatch.setattr(Own, "forward", other_code)
    assert len({key_of(own()), *keys}) == 6


@pytest.mark.slow
def test_the_description_of_a_real_transform_is_the_same_in_another_process() -> None:
    code = (
        "from ood_nc.data import eval_transform\nfrom ood_nc.features.cache_key import canonical_text\n"
        f"print(canonical_text(eval_transform({PREPROCESSING})))"
    )
    other = subprocess.check_output([sys.executable, "-c", code], text=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    assert other.strip() == canonical_text(eval_transform(PREPROCESSING))
