"""Images used twice: ID images inside an OOD set (case 45), and what is chosen or fitted on and tested."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ood_nc.data import Inputs, open_dataset
from ood_nc.errors import UserError
from ood_nc.evaluation.detection import detection_rows
from ood_nc.evaluation.inputs import open_inputs
from ood_nc.evaluation.measurement_plan import Resamples
from ood_nc.evaluation.results import make_row
from tests.helpers.tiny import tiny_model


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


def prepared(folders: Path, **options: Any) -> Inputs:
    known = {"class_names": ("0", "1"), "num_classes": 2, "tap_info": {}}
    model = SimpleNamespace(**known, preprocessing=tiny_model().preprocessing)
    given = {"id": str(folders / "test"), "id_train": str(folders / "train"), "transfer": {}, "groups": {}, "ood": {}}
    return open_inputs(model, **{**given, **options})[1]


@pytest.fixture(scope="module")
def inputs(folders: Path) -> Inputs:
    ood = {"ood": str(folders / "ood"), "stl": str(folders / "stl")}
    return prepared(folders, ood=ood, groups={"stl": "near"})


def test_copies_and_shared_classes_are_counted_listed_and_noted(inputs: Inputs) -> None:
    assert "ood: 20 of 100 images are also in ID test (first: copy00.png)" in inputs.notes
    entry = inputs.datasets["ood"]
    assert entry["duplicates"]["id_test"]["count"] == 20 and "id_train" not in entry["duplicates"]
    assert entry["duplicates"]["id_test"]["ids"][:2] == ["copy00.png", "copy01.png"]
    assert inputs.datasets["stl"]["shared_classes"] == ["1"]
    assert "stl: classes 1 are also ID classes" in inputs.notes
    assert inputs.overlap["stl"] == {f"1/{index:03d}.png" for index in range(6)}


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("tested", ["the same files", "some other name", "ID test"])
def test_choosing_on_what_is_tested_is_refused_whatever_its_name(
    folders: Path, tmp_path: Path, tested: str, share: float
) -> None:
    source = sorted((folders / "test" if tested == "ID test" else folders / "stl").rglob("*.png"))
    (tmp_path / "chosen").mkdir()
    for number, path in enumerate(source[: int(share * len(source))]):
        shutil.copy(path, tmp_path / "chosen" / f"{number}.png")
    ood = {"chosen": str(tmp_path / "chosen"), "reported": str(folders / "stl")}
    if tested == "the same files":
        ood["chosen"] = ood["reported"]
    with pytest.raises(UserError, match=r"cannot be chosen on 'chosen': .* images of (reported|ID test) are also in"):
        prepared(folders, ood=ood, choose_on="chosen", holds_out=True)


def test_tested_images_are_taken_out_of_id_validation(folders: Path) -> None:
    whole = open_dataset(str(folders / "test"))
    given = {"id": whole.subset(range(50)), "ood": {}, "holds_out": True}
    found = prepared(folders, **given, id_val=whole.subset(range(40, 80)))
    assert found.id_val is not None and found.id_val.ids == whole.ids[50:80]
    assert "ID validation: 10 images that are also in ID test are taken out of it" in found.notes
    with pytest.raises(UserError, match="All images of ID validation are also in ID test"):
        prepared(folders, **given, id_val=whole.subset(range(10)))


def test_what_is_fitted_on_and_tested_or_tested_twice_is_noted(folders: Path) -> None:
    whole = open_dataset(str(folders / "test"))
    tasks = {"task": (whole.subset(range(60)), whole.subset(range(55, 100)))}
    ood = {"one": str(folders / "stl"), "two": str(folders / "stl" / "cat")}
    found = prepared(folders, id_train=whole.subset(range(5)), ood=ood, transfer=tasks)
    lines = [note.partition(" (first")[0] for note in found.notes]
    assert "ID test: 5 of 100 images are also in ID train" in lines
    assert "task/test: 5 of 45 images are also in task/train" in lines
    assert "two: 4 of 4 images are also in one" in lines
    assert "two" not in found.overlap, "another OOD set's images are no ID images"


def test_native_sizes_that_give_a_set_away_are_noted(folders: Path, tmp_path: Path) -> None:
    Image.new("RGB", (224, 200)).save(tmp_path / "large.png")
    found = prepared(folders, ood={"large": str(tmp_path)})
    assert any(note.startswith("large: native sizes alone tell it from ID") for note in found.notes)


def rows_of(inputs: Inputs, replicates: int) -> list[dict[str, Any]]:
    ids = {"ood/ood": inputs.ood["ood"].ids, "ood/stl": inputs.ood["stl"].ids}
    copies = [name.startswith("copy") for name in ids["ood/ood"]]
    ood = np.empty(100)
    ood[np.logical_not(copies)], ood[copies] = np.arange(80.0), np.arange(100.0, 200.0, 5)
    scores = {"id_test": np.arange(100.0, 200.0), "ood/ood": ood, "ood/stl": np.arange(10.0)}
    make = functools.partial(make_row, {"run": "a", "kind": "detection", "tap": "encoder", "method": "energy"})
    plan: Any = SimpleNamespace(inputs=inputs, ids=ids, resamples=Resamples(replicates, 0))
    return detection_rows(scores, {}, plan, make)


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
