from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ood_nc.evaluation import evaluate
from ood_nc.models import ControlledModel
from tests.helpers.tiny import arguments, value, write_images


def test_an_untrained_head_is_not_used(tiny: Callable[..., ControlledModel]) -> None:
    model = tiny()
    model.class_names = None
    given = {**arguments(), "transfer": {}, "ood": {}, "groups": {}, "detectors": ["energy"], "bootstrap": 0}
    assert any("no trained head" in note for note in evaluate(model, **given).identity["notes"])
    model.head_is_fresh = False
    found = evaluate(model, **given)
    assert any("in order" in note for note in found.identity["notes"])
    assert value(found, kind="accuracy", method="head", metric="accuracy") >= 0


def test_a_head_for_other_classes_is_not_used(tiny: Callable[..., ControlledModel]) -> None:
    model = tiny(classes=7)
    model.class_names = None
    found = evaluate(model, **{**arguments(), "transfer": {}, "detectors": ["energy"], "bootstrap": 0})
    (row,) = found.select(kind="accuracy", method="head")
    assert row["value"] is None and "other classes" in row["reason"]
    assert {row["method"] for row in found.select(metric="nc4_bias")} == {"id_probe"}
    assert all(row["value"] is not None for row in found.select(kind="detection", metric="auroc"))
    assert any("7 outputs for 5 ID classes" in note for note in found.identity["notes"])


def test_id_images_without_labels_leave_what_needs_none(tiny: Callable[..., ControlledModel], tmp_path: Path) -> None:
    write_images(tmp_path / "id", 40)
    write_images(tmp_path / "ood", 10, seed=1)
    given = {"id": str(tmp_path / "id"), "ood": {"other": str(tmp_path / "ood")}, "bootstrap": 10}
    found = evaluate(tiny(), **given, detectors=["energy", "knn", "mahalanobis"])
    defined = {
        row["method"]
        for row in found.select(kind="detection", metric="auroc", tap="encoder")
        if row["value"] is not None
    }
    assert defined == {"knn"}
    assert all("lacks" in row["reason"] for row in found.select(method="mahalanobis"))
    assert all(row["value"] is None for row in found.select(kind="collapse", group="id"))
    assert found.select(kind="collapse", tap="projector", metric="nc1_pinv")[0]["reason"] == "the set has no labels"
