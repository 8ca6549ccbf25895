from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ood_nc.data import eval_transform, open_dataset, stratified_split
from ood_nc.errors import UserError
from ood_nc.evaluation import evaluate
from ood_nc.evaluation.banks import extract_banks, same_taps
from ood_nc.evaluation.inputs import open_inputs
from ood_nc.features import FeatureBank, UnreadableError, extract
from ood_nc.models import ControlledModel
from tests.helpers.tiny import Counting, arguments, part


def write(folder: Path, n: int, seed: int, *, broken: tuple[int, ...] = ()) -> str:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for index in range(n):
        path = folder / f"{index}.png"
        Image.fromarray(generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
        if index in broken:
            path.write_bytes(b"no image")
    return str(folder)


def test_an_image_in_several_sets_is_forwarded_once(tiny: Callable[..., ControlledModel]) -> None:
    model, whole = tiny(), part("bundled/digits-transfer::test", 60)
    first, second = stratified_split(whole.targets, 0.4, 0)
    halves = whole.subset(first), whole.subset(second[::-1])
    given = {**arguments(), "ood": {"same": whole}, "groups": {}, "transfer": {"same": halves, "again": halves}}
    counter = Counting(model)
    found = evaluate(model, **{**given, "detectors": ["energy"], "probes": ["nearest_mean"], "bootstrap": 0})
    assert counter.images == len(given["id"]) + len(given["id_train"]) + len(whole)

    _, inputs = open_inputs(
        model, id=given["id"], id_train=None, ood=given["ood"], transfer={"same": halves}, groups={}
    )
    banks = extract_banks(inputs, lambda dataset: extract(model, dataset))
    transform = eval_transform(model.preprocessing)
    for key, dataset in (("transfer/same/train", halves[0]), ("transfer/same/test", halves[1])):
        alone = extract(model, dataset.with_transform(transform))
        assert banks[key].ids == alone.ids and torch.equal(banks[key].labels, alone.labels)
        torch.testing.assert_close(banks[key].taps["encoder"], alone.taps["encoder"], rtol=1e-4, atol=1e-5)
    assert found.select(dataset="same", metric="accuracy", tap="encoder")[0]["value"] is not None


def test_equal_ids_of_other_images_are_other_images(tmp_path: Path, model: ControlledModel) -> None:
    sources = {"a": write(tmp_path / "a", 6, 0), "b": write(tmp_path / "b", 4, 1)}
    id_set = part("bundled/digits-id::test", 20)
    _, inputs = open_inputs(model, id=id_set, id_train=None, ood=sources, transfer={}, groups={})
    forwarded = []

    def extractor(dataset: object) -> object:
        forwarded.append(dataset.name)
        return extract(model, dataset)

    banks = extract_banks(inputs, extractor)
    assert len(forwarded) == 4 and banks["ood/b"].ids == banks["ood/a"].ids[:4]
    assert not torch.equal(banks["ood/b"].taps["encoder"], banks["ood/a"].taps["encoder"][:4])


def test_a_part_without_a_readable_image_has_no_bank(tmp_path: Path, model: ControlledModel) -> None:
    whole = open_dataset(write(tmp_path / "a", 6, 0, broken=(4, 5)))
    rows = [index for index, name in enumerate(whole.ids) if name in ("4.png", "5.png")]
    given = {"id": part("bundled/digits-id::test", 20), "id_train": None, "transfer": {}, "groups": {}}
    _, inputs = open_inputs(model, **given, ood={"whole": whole, "broken": whole.subset(rows, name="broken")})
    banks = extract_banks(inputs, lambda dataset: extract(model, dataset))
    assert "ood/broken" not in banks and len(banks["ood/whole"]) == 4
    assert any("None of the 2 images of broken" in note for note in inputs.notes)


def test_what_the_disk_cannot_hold_is_refused_before_the_first_pass(
    tiny: Callable[..., ControlledModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(taps=("encoder",))
    counter, given = Counting(model), {**arguments(), "ood": {}, "groups": {}}
    whole, held = given["transfer"]["more digits"]
    given["transfer"] = {"task": (whole, held), "again": (whole, held)}
    images = len(given["id"]) + len(given["id_train"]) + len(whole) + len(held)
    needed = images * (2 * model.tap_info["encoder"].dim + 4 * model.num_classes)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=needed - 1))
    with pytest.raises(UserError, match=f"The features take {needed:,} bytes more and .* has {needed - 1:,} free"):
        evaluate(model, **given, cache=tmp_path, bank_dtype="float16")
    assert counter.images == 0
    with pytest.raises(UserError, match=r"Unknown bank_dtype 'float61'.*float16"):
        evaluate(model, **given, bank_dtype="float61")


def test_an_id_set_without_a_readable_image_ends_it(tmp_path: Path, model: ControlledModel) -> None:
    source = write(tmp_path / "id", 4, 0, broken=(0, 1, 2, 3))
    _, inputs = open_inputs(model, id=source, id_train=None, ood={}, transfer={}, groups={})
    with pytest.raises(UnreadableError, match="None of the 2 images"):
        extract_banks(inputs, lambda dataset: extract(model, dataset))


def test_taps_that_are_one_tensor_are_measured_once(tiny: Callable[..., ControlledModel]) -> None:
    model = tiny(taps=("layer3", "layer4", "encoder", "projector"))
    given = {**arguments(), "detectors": ["knn"], "probes": ["nearest_mean"], "bootstrap": 0}
    found = evaluate(model, **given)
    assert {row["tap"] for row in found.rows} == {"layer3", "encoder", "projector"}
    assert next(tap for tap in found.identity["taps"] if tap["name"] == "encoder")["aliases"] == ["layer4"]
    assert "layer4 is the same tensor as encoder: measured once" in found.identity["notes"]
    assert found.select(tap="layer4", metric="auroc") == found.select(tap="encoder", metric="auroc") != []
    # Three taps enter the relations, not four: those of the tap measured twice were counted twice.
    assert {entry["taps"] for entry in found.relations if entry["pearson"] is not None} == {3}
    alone = evaluate(tiny(taps=("layer3", "encoder", "projector")), **given)
    ours, theirs = ([(e["x"], e["y"], e["method"], e["pearson"]) for e in r.relations] for r in (found, alone))
    assert ours == theirs


def test_taps_that_differ_in_one_number_of_one_set_are_two() -> None:
    a, b = torch.ones(3, 2), torch.ones(3, 2)
    b[2, 1] = 2
    banks = {key: FeatureBank({"x": a, "y": other}, a, a[:, 0].long(), ()) for key, other in (("t", a), ("o", b))}
    assert same_taps(["x", "y"], {"t": banks["t"]}, preferred=("y",)) == {"y": ["x"]}
    assert same_taps(["x", "y"], banks, preferred=("y",)) == {"x": [], "y": []}


def test_test_images_of_a_class_without_a_training_image_are_counted() -> None:
    """They lowered every accuracy in silence."""
    rng = np.random.default_rng(0)

    def split(name: str, labels: list[int]) -> dict[str, np.ndarray]:
        features = rng.normal(size=(len(labels), 4)).astype("float32") + np.eye(4, dtype="float32")[labels] * 9
        return {f"{name}/encoder": features, f"{name}/labels": np.array(labels)}

    arrays = split("id_train", [0, 1] * 20) | split("id_test", [0, 1, 2, 3] * 5 + [3])
    arrays |= split("transfer/pets/train", [0, 1] * 9) | split("transfer/pets/test", [0, 1] * 5)
    arrays |= split("transfer/cars/train", [0, 1] * 9) | split("transfer/cars/test", [0, 1, 3] * 5)
    found = evaluate(features=arrays, detectors=[], probes=["nearest_mean"], bootstrap=0)
    told = [note for note in found.identity["notes"] if "without a training image" in note]
    assert [note.partition(" test images")[0] for note in told] == ["ID test: 11 of 21", "cars: 5 of 15"]
    assert "(2, 3)" in told[0] and "(3)" in told[1]
    (row,) = found.select(kind="transfer", dataset="cars", metric="accuracy")
    assert row["value"] == pytest.approx(10 / 15), "they count as wrong"
