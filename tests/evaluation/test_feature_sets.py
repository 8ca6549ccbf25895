from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ood_nc.errors import UserError
from ood_nc.evaluation import Results, evaluate
from ood_nc.evaluation.feature_sets import ONE_TAP, feature_bank, open_features
from ood_nc.features import FeatureBank, extract
from ood_nc.models import ControlledModel
from tests.helpers.tiny import arguments

FEW = {"detectors": ["energy", "knn", "mahalanobis"], "probes": ["linear"], "bootstrap": 0}


@pytest.fixture(scope="module")
def from_images(model: ControlledModel) -> Results:
    return evaluate(model, **{**arguments(), **FEW})


@pytest.fixture(scope="module")
def arrays(model: ControlledModel) -> dict[str, torch.Tensor]:
    """The features of the very same sets, by name."""
    from ood_nc.data import eval_transform

    given = arguments()
    train, test = given["transfer"]["more digits"]
    sets = {"id_train": given["id_train"], "id_test": given["id"], "near/digits": given["ood"]["digits"]}
    sets |= {"far/textures": given["ood"]["textures"]}
    sets |= {"transfer/more digits/train": train, "transfer/more digits/test": test}
    found: dict[str, torch.Tensor] = {"head/weight": model.head_weight.detach(), "head/bias": model.head_bias.detach()}
    for name, dataset in sets.items():
        bank: FeatureBank = extract(model, dataset.with_transform(eval_transform(model.preprocessing)))
        found |= {f"{name}/{tap}": features for tap, features in bank.taps.items()}
        found |= {f"{name}/labels": bank.labels, f"{name}/logits": bank.logits}
    return {name: array for name, array in found.items() if not (name.endswith("labels") and (array < 0).any())}


def numbers(results: Results) -> dict[tuple[Any, ...], float | None]:
    key = ("tap", "kind", "dataset", "group", "method", "metric", "selected_on")
    return {tuple(row[k] for k in key): row["value"] for row in results.rows if row["metric"] != "seconds"}


def write(folder: Path, layout: str, arrays: dict[str, torch.Tensor]) -> Path:
    if layout == "safetensors":
        save_file({name: array.contiguous() for name, array in arrays.items()}, folder / "all.safetensors")
        return folder / "all.safetensors"
    if layout == "npz":
        np.savez(folder / "all.npz", **{name: array.numpy() for name, array in arrays.items()})
        return folder / "all.npz"
    sets: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        place, _, key = name.rpartition("/")
        sets.setdefault(place, {})[key] = array.numpy()
    for place, keys in sets.items():
        if place.startswith("far"):
            (folder / place).mkdir(parents=True)
            for key, array in keys.items():
                np.save(folder / place / f"{key}.npy", array)
        else:
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            np.savez(folder / f"{place}.npz", **keys)
    return folder


@pytest.mark.parametrize("layout", ["safetensors", "npz", "folder", "arrays"])
def test_features_give_the_numbers_of_their_images(
    layout: str, from_images: Results, arrays: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    source = arrays if layout == "arrays" else write(tmp_path, layout, arrays)
    found = numbers(evaluate(features=source, **FEW))
    wanted = numbers(from_images)
    # The order of taps in a file is that of its keys; with it stand the tunnel effect's rows, alike otherwise.
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert found[key] == (value if value is None else pytest.approx(value, rel=1e-5, abs=1e-6)), key


def test_logits_follow_from_the_head_where_none_are_given(
    from_images: Results, arrays: dict[str, torch.Tensor]
) -> None:
    without = {name: array for name, array in arrays.items() if not name.endswith("logits")}
    found, wanted = numbers(evaluate(features=without, **FEW)), numbers(from_images)
    energy = [key for key in wanted if key[4] == "energy" and key[0] == "projector"]
    assert energy and all(found[key] == pytest.approx(wanted[key], abs=1e-5) for key in energy)


def test_one_tap_needs_no_name_and_no_head(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 20)
    for name in ("id_train", "id_test"):
        np.save(tmp_path / f"{name}.npy", np.eye(3)[labels] + 0.1 * generator.normal(size=(60, 3)))
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "labels.npy", labels)
    (tmp_path / "ood").mkdir()
    np.save(tmp_path / "ood" / "noise.npy", generator.normal(size=(40, 3)).astype(np.float16))
    found = evaluate(features=tmp_path, detectors=["knn", "energy"], bootstrap=0)
    (row,) = found.select(kind="detection", method="knn", metric="auroc", dataset="noise")
    assert row["tap"] == "features" and row["group"] == "far" and row["value"] > 0.9
    assert found.select(method="energy", metric="auroc", dataset="noise")[0]["selected_on"] == "held out of train"
    assert any("no trained head" in note for note in found.identity["notes"])


def small() -> dict[str, Any]:
    labels = np.repeat([0, 1], 5)
    sets = {f"{name}/encoder": np.random.default_rng(0).normal(size=(10, 4)) for name in ("id_train", "id_test")}
    return {**sets, "id_train/labels": labels, "id_test/labels": labels, "ood/x/encoder": np.zeros((3, 4))}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id_train/encoder": None}, "no tap of id_train|no id_train"),
        ({"id_tset/encoder": np.zeros((3, 4))}, "named 'id_tset/encoder'"),
        ({"ood/x/layer": np.zeros((3, 4))}, "a tap 'layer' that id_train lacks"),
        ({"id_train/layer": np.zeros((10, 4))}, "id_test has no tap 'layer'"),
        ({"id_train/labels": np.zeros(9)}, "9 entries for 10 samples"),
        ({"id_train/labels": np.full(10, 0.5)}, "id_train/labels"),
        ({"head/weight": np.zeros((2, 5))}, "head/weight has 5 columns"),
        ({"ood/x/encoder": np.zeros((3, 2, 2))}, "must have shape"),
        ({"ood/x/encoder": np.zeros((3, 5))}, "ood/x/encoder has 5 columns, id_train/encoder has 4"),
        ({"id_train/encoder": np.float64(1.0)}, "must have shape"),
        ({"head/weight": np.zeros((2, 4)), "head/bias": np.zeros(3)}, r"head/bias has the shape \(3,\)"),
        ({"head/bias": np.zeros(3)}, r"head/bias has the shape \(3,\)"),
        ({"near/x/encoder": np.zeros((3, 4))}, "two OOD sets named x"),
        ({"transfer/t/train/encoder": np.zeros((3, 4))}, "not its other part"),
        ({"transfer/t/encoder": np.zeros((3, 4))}, "named 'transfer/t/encoder'"),
        ({"id_test/logits": np.zeros((10, 2))}, "id_test has logits, id_train has none"),
        (
            {f"{name}/logits": np.zeros((10, 2)) for name in ("id_train", "id_test")},
            "id_train has logits, ood/x has none",
        ),
        ({"id_test/ids": np.array(["cat/1.png", "1.png", "1.png", *"abcdefg"])}, "id_test/ids names '1.png' more than"),
        ({"/id_train/encoder": np.zeros((10, 4))}, "hold id_train/encoder twice"),
    ],
)
def test_what_does_not_fit_is_one_line(change: dict[str, Any], message: str) -> None:
    given = {name: array for name, array in {**small(), **change}.items() if array is not None}
    with pytest.raises(UserError, match=message) as caught:
        open_features(given)
    assert "\n" not in str(caught.value)


def test_a_group_given_for_one_set_leaves_those_that_the_other_names_say() -> None:
    given = small() | {"covariate/shifted/encoder": np.zeros((3, 4)), "near/y/encoder": np.ones((3, 4))}
    found = evaluate(features=given, groups={"x": "near"}, detectors=["knn"], probes=[], bootstrap=0)
    groups = {row["dataset"]: row["group"] for row in found.select(metric="auroc") if row["dataset"] != "mean"}
    assert groups == {"x": "near", "shifted": "covariate", "y": "near"}


@pytest.mark.parametrize("turn", [0, 1])
def test_a_head_of_classes_in_another_order_is_told(turn: int) -> None:
    labels, generator = np.repeat([0, 1, 2], 20), np.random.default_rng(0)
    given = {name: np.eye(3)[labels] + 0.1 * generator.normal(size=(60, 3)) for name in ("id_train", "id_test")}
    given |= {"ood/x": generator.normal(size=(9, 3)), "head/weight": np.roll(np.eye(3), turn, axis=0)}
    given |= {"id_train/labels": labels, "id_test/labels": labels}
    notes = evaluate(features=given, detectors=["msp"], probes=["knn"], bootstrap=0).identity["notes"]
    told = [note for note in notes if note.startswith("the head is right on 0.0% of ID test, less than chance")]
    assert len(told) == turn


def test_a_name_that_two_files_give_is_one_line(tmp_path: Path) -> None:
    write(tmp_path, "folder", {name: torch.as_tensor(array) for name, array in small().items()})
    (tmp_path / "ood" / "x").mkdir()
    np.save(tmp_path / "ood" / "x" / "encoder.npy", np.ones((3, 4)))
    with pytest.raises(UserError, match=r"hold ood/x/encoder twice, once more in .*x\.npz"):
        open_features(tmp_path)


def test_transfer_sets_need_no_logits() -> None:
    with_logits = {f"{name}/logits": np.ones((n, 2)) for name, n in (("id_train", 10), ("id_test", 10), ("ood/x", 3))}
    task = {f"transfer/t/{part}/{tap}": array for part in ("train", "test") for tap, array in task_arrays().items()}
    _, sets = open_features({**small(), **with_logits, **task})
    assert bool((feature_bank(sets["id"]).logits == 1).all()) and sets["transfer"]["t"]
    results = evaluate(features={**small(), **with_logits, **task}, detectors=["msp"], probes=["knn"], bootstrap=0)
    assert results.select(kind="transfer", dataset="t")


def task_arrays() -> dict[str, np.ndarray]:
    return {"encoder": np.random.default_rng(1).normal(size=(30, 4)), "labels": np.repeat([0, 1], 15)}


@pytest.mark.parametrize("which", ["encoder", "projector"])
def test_the_head_reads_the_tap_that_gives_its_logits(which: str) -> None:
    generator = np.random.default_rng(0)
    weight, bias = generator.normal(size=(2, 4)), generator.normal(size=2)
    given = small() | {name.replace("encoder", "projector"): array[::-1] + 1 for name, array in small().items()}
    given = {name: array for name, array in given.items() if not name.endswith("labels")}
    sets = {name.rpartition("/")[0] for name in given}
    logits = {f"{name}/logits": given[f"{name}/{which}"] @ weight.T + bias for name in sets}
    labels = {name: array for name, array in small().items() if name.endswith("labels")}
    model, _ = open_features({**given, **labels, **logits, "head/weight": weight, "head/bias": bias})
    assert model.head_tap == which
    without, _ = open_features({**given, **labels, "head/weight": weight, "head/bias": bias})
    assert without.head_tap == "projector"


@pytest.mark.parametrize("name", ["x.npz", "x.safetensors", "x.txt", "nothing"])
def test_damaged_files_are_one_line(tmp_path: Path, name: str) -> None:
    if name != "nothing":
        (tmp_path / name).write_bytes(b"PK\x03\x04 damaged")
    with pytest.raises(UserError, match=name) as caught:
        open_features(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_what_inflates_beyond_all_measure_is_refused_before_it_takes_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ood_nc.data.numpy_files.most_inflated", lambda stored, given: 100 * stored)
    np.savez_compressed(tmp_path / "x.npz", **{**small(), "ood/x/encoder": np.zeros((4096, 80))})
    with pytest.raises(UserError, match="would inflate"):
        open_features(tmp_path / "x.npz")
    (tmp_path / "set").mkdir()
    with (tmp_path / "set" / "y.npy").open("wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (1 << 40, 4)}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(UserError, match=r"Cannot read .*y\.npy"):
        open_features(tmp_path / "set")


def test_features_and_a_model_or_its_detectors_do_not_go_together(model: ControlledModel) -> None:
    with pytest.raises(UserError, match="not both"):
        evaluate(model, features=small())
    with pytest.raises(UserError, match="'odin' needs the network"):
        evaluate(features=small(), detectors=["odin"])
    with pytest.raises(UserError, match="needs a model and id"):
        evaluate(model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_the_numbers_of_the_same_values_in_float32(
    dtype: torch.dtype, arrays: dict[str, torch.Tensor]
) -> None:
    names = [name for name in arrays if not name.endswith(("labels", "logits", "weight", "bias"))]
    half = {name: arrays[name].to(dtype) for name in names}
    wide = {name: rows.float() for name, rows in half.items()}
    found, wanted = (numbers(evaluate(features={**arrays, **rows}, **FEW)) for rows in (half, wide))
    memory = [key for key in wanted if "memory" in key]  # k-NN keeps the rows as they are
    assert memory and all(found.pop(key) <= wanted.pop(key) for key in memory)
    assert found == wanted


def test_half_precision_stays_and_a_mapped_file_is_not_copied(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float16)
    for name in ("id_train", "id_test"):
        np.save(tmp_path / f"{name}.npy", rows)
    _, sets = open_features(tmp_path)
    bank = feature_bank(sets["id_train"])
    assert bank.taps[ONE_TAP].dtype == torch.float16 and bank.taps[ONE_TAP].numpy().tobytes() == rows.tobytes()
    if Path("/proc/self/maps").exists():
        assert str(tmp_path / "id_train.npy") in Path("/proc/self/maps").read_text()


def test_logits_without_a_head_serve_where_id_images_are_held_out(arrays: dict[str, torch.Tensor]) -> None:
    """Outliers made of the features have no logits there: the whole evaluation ended."""
    headless = {name: array for name, array in arrays.items() if not name.startswith("head/")}
    plain = evaluate(features=headless, **FEW)
    found = evaluate(features=headless, **FEW, ensembles=["rank"])
    where = {"kind": "detection", "metric": "auroc", "dataset": "textures"}
    for tap in ("layer2", "encoder", "projector"):
        assert found.select(**where, tap=tap, method="rank(detectors)")[0]["value"] is not None
    held_out = [row["method"] for row in found.select(**where) if row["value"] is None]
    assert held_out == [row["method"] for row in plain.select(**where) if row["value"] is None] == []


def test_logits_without_labels_of_id_train_are_evaluated(arrays: dict[str, torch.Tensor]) -> None:
    """Chance was one in no classes."""
    left = {name: one for name, one in arrays.items() if not name.startswith("head/") and name != "id_train/labels"}
    found = evaluate(features=left, **FEW)
    assert found.select(kind="detection", method="energy", dataset="textures", metric="auroc", tap="projector")


def test_numbers_that_are_no_class_indices_are_refused_before_anything_is_measured():
    """Every class up to the largest number had a place: five classes took ten minutes and more."""
    rows = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    sets = {"id_train/encoder": rows, "id_test/encoder": rows, "id_test/labels": np.arange(10)}
    with pytest.raises(UserError, match="id_train/labels holds 10 classes numbered up to 1000000: number them from 0"):
        open_features({**sets, "id_train/labels": np.r_[np.arange(9), 10**6]})
    model, _ = open_features({**sets, "id_train/labels": np.r_[np.arange(9), 29_999]})
    assert model.num_classes == 30_000
