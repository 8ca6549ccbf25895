from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ood_nc.data import open_dataset
from ood_nc.errors import UserError
from ood_nc.evaluation import Results, evaluate
from ood_nc.models import ControlledModel
from tests.helpers.tiny import Counting, arguments, write_images

DETECTORS = ["msp", "energy", "mahalanobis", "relative_mahalanobis", "nci", "class_mean_cosine", "knn", "vim"]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp("images")
    write_images(folder, 20, broken=2)
    ood = {**arguments()["ood"], "noise": str(folder)}
    return {**arguments(), "ood": ood, "detectors": DETECTORS, "bootstrap": 10, "ensembles": ["rank"]}


@pytest.fixture(scope="module")
def model(tiny: Callable[..., ControlledModel]) -> ControlledModel:
    model = tiny()
    model.head_is_fresh = False
    return model


@pytest.fixture(scope="module")
def streamed(model: ControlledModel, given: dict[str, Any]) -> Results:
    counter = Counting(model)
    found = evaluate(model, **given, bank=False)
    sets = [given["id"], given["id_train"], *given["ood"].values()]
    images = sum(len(open_dataset(one) if isinstance(one, str) else one) for one in sets)
    assert counter.images == images - 2, "each readable image once, those of transfer sets not at all"
    return found


@pytest.fixture(scope="module")
def kept(model: ControlledModel, given: dict[str, Any]) -> Results:
    return evaluate(model, **given)


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("tap", "kind", "dataset", "group", "method", "metric", "n"))


def test_what_one_pass_gives_is_what_the_bank_gives(streamed: Results, kept: Results, model: ControlledModel) -> None:
    wanted = {key(row): row for row in kept.rows if row["metric"] != "seconds"}
    compared = set()
    for row in streamed.rows:
        if row["value"] is None or row["metric"] == "seconds" or "rank" in str(row["method"]):
            continue  # an ensemble of fewer members is another
        other = wanted[key(row)]
        near = 0.02 if row["kind"] == "detection" else 1e-4  # two of nearly equal scores may change places
        for name in ("value", "low", "high"):
            assert row[name] == (other[name] if other[name] is None else pytest.approx(other[name], rel=1e-4, abs=near))
        compared.add((row["tap"] == model.head_tap, row["kind"], row["method"]))
    for detector in ("mahalanobis", "relative_mahalanobis", "nci", "class_mean_cosine"):
        assert (True, "detection", detector) in compared
    for always in ((False, "detection", "mahalanobis"), (False, "collapse", None), (True, "collapse", "head")):
        assert always in compared
    for of_the_head in ((True, "detection", "msp"), (True, "detection", "energy"), (True, "accuracy", "head")):
        assert of_the_head in compared


def test_what_it_does_not_give_is_named(streamed: Results, model: ControlledModel) -> None:
    for method in ("knn", "vim"):
        rows = streamed.select(method=method, metric="auroc", tap=model.head_tap)
        assert rows and all(row["value"] is None and "no bank is kept" in row["reason"] for row in rows)
    other = next(tap for tap in model.tap_names if tap != model.head_tap)
    assert "lacks logits" in streamed.select(method="msp", tap=other, dataset="digits", metric="auroc")[0]["reason"]
    assert streamed.select(method="rank(detectors)", metric="auroc")[0]["value"] is not None
    (note,) = [note for note in streamed.identity["notes"] if note.startswith("no bank was kept")]
    assert all(name in note for name in ("knn", "vim", "linear")) and "mahalanobis" not in note
    assert streamed.select(kind="transfer") == []
    assert len([note for note in streamed.identity["notes"] if note.startswith("noise: 2 of")]) == 1


def test_scores_stand_beside_their_images(streamed: Results, kept: Results, model: ControlledModel) -> None:
    name = f"score/{model.head_tap}/mahalanobis"
    ours, theirs = (
        {(row["dataset"], row["id"]): row.get(name) for row in results.scores.to_pylist() if row["group"] != "transfer"}
        for results in (streamed, kept)
    )
    assert len(ours) > 100 and ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"protocols": ["paper"]}, "paper protocol"),
        ({"choose": "synthetic"}, "choose on"),
    ],
)
def test_what_needs_a_bank_is_one_line(model: ControlledModel, more: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"Without a bank .*{message}"):
        evaluate(model, **{**arguments(), "detectors": ["energy"], "bank": False, **more})


def test_id_train_without_labels_is_one_line(model: ControlledModel, tmp_path: Path) -> None:
    write_images(tmp_path / "images", 10)
    with pytest.raises(UserError, match=r"Without a bank .*label id_train"):
        evaluate(model, id=str(tmp_path / "images"), detectors=["energy"], bank=False)


def test_an_ood_set_without_a_readable_image_is_undefined_as_with_a_bank(
    model: ControlledModel, tmp_path: Path
) -> None:
    """It ended the evaluation, for its scores were taken for some."""
    write_images(tmp_path / "noise", 8)
    write_images(tmp_path / "broken", 0, broken=2)
    ood = {name: str(tmp_path / name) for name in ("noise", "broken")}
    few = {**arguments(), "ood": ood, "groups": {}, "detectors": ["mahalanobis"], "probes": [], "bootstrap": 0}
    kept, found = (evaluate(model, **few, bank=bank) for bank in (True, False))
    for results in (kept, found):
        rows = results.select(kind="detection", metric="auroc", tap="encoder")
        values = {row["dataset"]: (row["value"] is None, row["reason"]) for row in rows if row["group"] == "far"}
        assert values["broken"] == (True, "the set holds no readable image") and not values["noise"][0]
        assert any("None of the 2 images of" in note for note in results.identity["notes"])
