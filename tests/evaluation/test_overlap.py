"""Case 45: ID images inside an OOD set."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ood_nc.evaluation.detection import Resamples, detection_rows
from ood_nc.evaluation.inputs import Inputs, prepare
from ood_nc.evaluation.results import make_row
from ood_nc.models import ControlledModel


def draw(folder: Path, n: int, seed: int) -> None:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for index in range(n):
        Image.fromarray(generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / f"{index:03d}.png")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 ID test images; an OOD set of 80 others and 20 copies; one with classes named like ID classes."""
    root = tmp_path_factory.mktemp("overlap")
    for position, name in enumerate(("0", "1")):
        draw(root / "train" / name, 5, seed=position)
        draw(root / "test" / name, 50, seed=10 + position)
    draw(root / "ood", 80, seed=20)
    files = sorted((root / "test").rglob("*.png"))
    for number, path in enumerate(files[::5]):
        shutil.copy(path, root / "ood" / f"copy{number:02d}.png")
    draw(root / "stl" / "cat", 4, seed=30)
    draw(root / "stl" / "1", 6, seed=31)
    return root


@pytest.fixture(scope="module")
def inputs(folders: Path, model: ControlledModel) -> Inputs:
    class Two:
        class_names = ("0", "1")
        num_classes = 2
        preprocessing = model.preprocessing

    return prepare(
        Two(),
        id=str(folders / "test"),
        id_train=str(folders / "train"),
        ood={"ood": str(folders / "ood"), "stl": str(folders / "stl")},
        transfer={},
        groups={"stl": "near"},
    )


def test_copies_and_shared_classes_are_counted_listed_and_noted(inputs: Inputs) -> None:
    assert "ood: 20 of 100 OOD files are also in ID test" in inputs.notes
    entry = inputs.datasets["ood"]
    assert entry["duplicates"]["id_test"]["count"] == 20 and entry["duplicates"]["id_train"]["count"] == 0
    assert entry["duplicates"]["id_test"]["ids"][:2] == ["copy00.png", "copy01.png"]
    assert inputs.datasets["stl"]["shared_classes"] == ["1"]
    assert "stl: classes 1 are also ID classes" in inputs.notes
    assert inputs.overlap["stl"] == {f"1/{index:03d}.png" for index in range(6)}


def rows_of(inputs: Inputs, replicates: int) -> list[dict[str, Any]]:
    ids = {"ood/ood": inputs.ood["ood"].ids, "ood/stl": inputs.ood["stl"].ids}
    copies = [name.startswith("copy") for name in ids["ood/ood"]]
    ood = np.empty(100)
    ood[np.logical_not(copies)], ood[copies] = np.arange(80.0), np.arange(100.0, 200.0, 5)
    scores = {"id_test": np.arange(100.0, 200.0), "ood/ood": ood, "ood/stl": np.arange(10.0)}
    make = functools.partial(make_row, {"run": "a", "kind": "detection", "tap": "encoder", "method": "energy"})
    return detection_rows(scores, {}, inputs, ids, Resamples(replicates, 0), make)


@pytest.mark.parametrize("replicates", [0, 20])
def test_auroc_with_the_copies_and_without(inputs: Inputs, replicates: int) -> None:
    found = {(row["dataset"], row["group"]): row for row in rows_of(inputs, replicates) if row["metric"] == "auroc"}
    assert found["ood", "far"]["value"] == pytest.approx(0.904, abs=5e-4) and found["ood", "far"]["n"] == 100
    assert found["ood (disjoint)", "far"]["value"] == 1.0 and found["ood (disjoint)", "far"]["n"] == 80
    assert found["stl (disjoint)", "near"]["n"] == 4
    assert found["mean", "far"]["value"] == found["ood", "far"]["value"], "the variant is in no mean"
    assert (found["ood", "far"]["low"] is None) == (replicates == 0)


def test_case_10_aupr_stands_beside_its_base_rate(inputs: Inputs) -> None:
    assert inputs.datasets["ood"]["n_id"] == 100 and inputs.datasets["ood"]["base_rate"] == 0.5
    assert inputs.datasets["stl"]["base_rate"] == pytest.approx(10 / 110)
