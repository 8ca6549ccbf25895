from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from torchvision.datasets import ImageFolder

from ood_nc.errors import UserError
from ood_nc.evaluation import evaluate
from ood_nc.models import ControlledModel
from ood_nc.scores import METRICS
from tests.helpers.tiny import arguments, part, value, write_images

TAPS = ["layer2", "encoder", "projector"]


def test_case_5_an_empty_ood_folder_is_undefined_and_in_no_mean(
    tiny: Callable[..., ControlledModel], tmp_path: Path
) -> None:
    (tmp_path / "empty" / ".hidden").mkdir(parents=True)
    given = arguments()
    given["ood"]["empty"] = str(tmp_path / "empty")
    given["transfer"]["nothing"] = str(tmp_path / "empty")
    found = evaluate(tiny(), **{**given, "detectors": ["energy"], "probes": ["nearest_mean"]})
    undefined = found.select(kind="detection", dataset="empty")
    assert len(undefined) == len(METRICS) * len(TAPS)
    assert all(row["value"] is None and "no readable image" in row["reason"] for row in undefined)
    where = {"kind": "detection", "tap": "encoder", "method": "energy", "metric": "auroc"}
    assert value(found, **where, dataset="mean", group="far") == value(found, **where, dataset="textures")
    assert found.select(dataset="nothing", tap="encoder", metric="accuracy")[0]["value"] is None
    assert found.identity["datasets"]["empty"] == {"n": 0, "group": "far", "n_id": 60, "base_rate": 0.0}
    assert any("empty" in note and "no mean" in note for note in found.identity["notes"])


def test_broken_images_are_left_out_and_noted(tiny: Callable[..., ControlledModel], tmp_path: Path) -> None:
    write_images(tmp_path / "some", 9, broken=2)
    write_images(tmp_path / "all", 0, broken=3)
    given = {**arguments(), "groups": {}, "transfer": {}}
    given["ood"] = {"some": str(tmp_path / "some"), "all": str(tmp_path / "all")}
    found = evaluate(tiny(), **{**given, "detectors": ["energy"], "bootstrap": 0})
    assert found.select(dataset="some", metric="auroc", tap="encoder")[0]["n"] == 9
    assert found.identity["datasets"]["some"]["broken"]["count"] == 2
    assert any(note.startswith("some: 2 of 11 images cannot be read") for note in found.identity["notes"])
    assert all(row["value"] is None for row in found.select(kind="detection", dataset="all"))
    assert any("None of the 3 images" in note for note in found.identity["notes"])
    assert found.select(kind="transfer") == []


def test_without_id_train_half_of_the_id_set_is_fitted_on(tiny: Callable[..., ControlledModel]) -> None:
    given = {**arguments(), "id_train": None, "transfer": {}, "detectors": ["energy"], "bootstrap": 0}
    found = evaluate(tiny(), **given)
    assert found.identity["datasets"]["id_train"]["n"] == found.identity["datasets"]["id_test"]["n"] == 30
    assert any("half of the ID set" in note for note in found.identity["notes"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"detectors": ["enrgy"]}, "enrgy.*Did you mean 'energy'"),
        ({"probes": ["liner"]}, "liner.*Did you mean 'linear'"),
        ({"protocols": ["papr"]}, "paper"),
        ({"groups": {"digits": "middle"}}, "digits has group 'middle'"),
        ({"groups": {"digit": "near"}}, "group for 'digit'.*Did you mean 'digits'"),
        ({"ood": {"x": "no/such/folder"}, "groups": {}}, "No data at"),
        ({"id": "no/such/folder"}, "No data at"),
        ({"id": part("bundled/digits-id::test", 5).subset([])}, "has no images"),
        ({"id": part("bundled/digits-near", 5)}, "classes that are not known"),
    ],
)
def test_mistakes_are_refused_in_one_line_before_any_forward_pass(
    model: ControlledModel, change: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ood_nc.evaluation.fitting.extract", None)
    with pytest.raises(UserError, match=message) as caught:
        evaluate(model, **{**arguments(), **change})
    assert "\n" not in str(caught.value)


def torch_sets(tmp_path: Path) -> dict[str, Any]:
    """The sets of `arguments` as other libraries hold them: files of an ImageFolder, tensors, a loader of a subset."""
    given = arguments()
    for index, target in enumerate(given["id"].targets):
        folder = tmp_path / "id" / str(target)
        folder.mkdir(parents=True, exist_ok=True)
        given["id"].load(index).save(folder / f"{index:03d}.png")
    train, textures = given["id_train"], given["ood"]["textures"]
    pixels = torch.stack([torch.from_numpy(np.array(train.load(i))).permute(2, 0, 1) for i in range(len(train))])
    loader = DataLoader([(textures.load(i), 0) for i in range(len(textures))], batch_size=7, collate_fn=list)
    return {
        "id": ImageFolder(str(tmp_path / "id"), transform=lambda image: 1 / 0),
        "id_train": TensorDataset(pixels, torch.from_numpy(train.targets)),
        "ood": {"textures": loader},
    }


def test_torch_data_sets_give_the_numbers_of_ours(tiny: Callable[..., ControlledModel], tmp_path: Path) -> None:
    few = {"detectors": ["knn", "energy"], "probes": [], "bootstrap": 0, "transfer": {}, "groups": {}}
    given = {**arguments(), **few}
    given["ood"] = {"textures": given["ood"]["textures"]}
    ours, theirs = evaluate(tiny(), **given), evaluate(tiny(), **{**given, **torch_sets(tmp_path)})
    where = {"kind": "detection", "dataset": "textures", "metric": "auroc"}
    wanted = [(row["tap"], row["method"], row["value"]) for row in ours.select(**where)]
    found = [(row["tap"], row["method"], row["value"]) for row in theirs.select(**where)]
    assert [row[:2] for row in found] == [row[:2] for row in wanted] and len(found) == 6
    np.testing.assert_allclose([row[2] for row in found], [row[2] for row in wanted], atol=1e-6)
    assert theirs.identity["datasets"]["textures"]["n"] == len(given["ood"]["textures"])
