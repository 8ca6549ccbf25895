"""The scripts that write the pages of the companions run, on images that are drawn here."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow
DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture
def data(tmp_path):
    """Sets of ten classes, two grey of 28 pixels and two in colour of 32: a bright column says the class."""
    for name, shape in {
        "mnist": (28, 28),
        "fashion_mnist": (28, 28),
        "cifar": (32, 32, 3),
        "textures": (32, 32, 3),
    }.items():
        arrays = {}
        for split, count in (("train", 200), ("test", 100)):
            rng = np.random.default_rng(count)
            labels = np.arange(count) % 10
            images = rng.integers(0, 80, (count, *shape), dtype=np.uint8)
            for image, label in zip(images, labels, strict=True):
                image[:, 2 * label : 2 * label + 3] = 255
            arrays |= {f"x_{split}": images, f"y_{split}": labels}
        if name == "textures":
            arrays = {"x": arrays["x_test"], "y": arrays["y_test"]}
        np.savez(tmp_path / f"{name}.npz", **arrays)
    return tmp_path


@pytest.mark.parametrize("name", ["intermediate", "multilabel"])
def test_quick(name, data, monkeypatch):
    specification = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    monkeypatch.setattr("sys.argv", [name, str(data / "runs"), "--data-dir", str(data), "--quick"])
    module.main()
    assert len(list((data / "runs").glob("*/results.json"))) == (4 if name == "intermediate" else 15)
