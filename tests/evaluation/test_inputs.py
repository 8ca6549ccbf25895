from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
