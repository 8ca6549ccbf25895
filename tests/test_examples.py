"""Every example (``>>>``) in the docstrings of the package runs, and every public function and class has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import Any, get_origin

import numpy as np
import pytest
import torch

ROOMS = [
    "scores",
    "detection",
    "collapse",
    "transfer",
    "losses",
    "data",
    "models",
    "features",
    "evaluation",
    "deployment",
    "tracking",
    "privacy",
]
NEED_MORE = {
    "Tracker": "a protocol",
    "WandbLog": "writes a run of W&B",
    "sync_command": "reads a run of W&B",
    "export_onnx": "needs the extra `export`",
    "share_passes": "needs several processes",
    "DerivedStore": "needs two models of one backbone",
    "add_layer_inputs": "needs a network and the results of its evaluation",
}
"""What an example of a few lines cannot show."""


def _modules() -> Iterator[str]:
    yield "ood_nc.arrays"
    for room in ROOMS:
        package = importlib.import_module(f"ood_nc.{room}")
        yield package.__name__
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            yield module.name


def _examples(value: object, name: str) -> list[doctest.Example]:
    return [example for test in doctest.DocTestFinder().find(value, name) for example in test.examples]


@pytest.mark.parametrize("name", list(_modules()))
def test_examples_run(name: str) -> None:
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    said: list[str] = []
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    with np.printoptions(legacy=False, precision=4, suppress=True):
        for test in doctest.DocTestFinder(exclude_empty=True).find(module, name):
            runner.run(test, out=said.append)
    torch.random.set_rng_state(state)
    torch.set_num_threads(threads)
    assert not runner.summarize(verbose=False).failed, "".join(said)


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_has_an_example(room: str) -> None:
    module = importlib.import_module(f"ood_nc.{room}")
    without = {
        name
        for name in module.__all__
        if (inspect.isfunction(value := getattr(module, name)) or inspect.isclass(value))
        and value is not Any
        and get_origin(value) is None  # an alias of types, which Python 3.10 takes for a class
        and not (inspect.isclass(value) and issubclass(value, BaseException))
        and not _examples(value, name)
    }
    assert not without - NEED_MORE.keys()
