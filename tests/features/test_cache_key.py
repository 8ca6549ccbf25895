from __future__ import annotations

import functools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode

from ood_nc.data import eval_transform
from ood_nc.features.cache_key import canonical_text

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


@pytest.mark.slow
def test_the_description_of_a_real_transform_is_the_same_in_another_process() -> None:
    code = (
        "from ood_nc.data import eval_transform\nfrom ood_nc.features.cache_key import canonical_text\n"
        f"print(canonical_text(eval_transform({PREPROCESSING})))"
    )
    other = subprocess.check_output([sys.executable, "-c", code], text=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    assert other.strip() == canonical_text(eval_transform(PREPROCESSING))
