from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ood_nc.config import EvaluationConfig
from ood_nc.evaluation import COLUMNS, Results, evaluate, relate
from ood_nc.models import ControlledModel
from ood_nc.scores import METRICS
from tests.helpers.tiny import Counting, arguments

TAPS = ["layer2", "encoder", "projector"]


def test_every_image_passes_through_the_model_once(tiny: Callable[..., ControlledModel]) -> None:
    model = tiny()
    counter = Counting(model)
    found = evaluate(model, **{**arguments(), "detectors": ["energy"], "probes": ["nearest_mean"], "bootstrap": 0})
    assert counter.images == sum(entry["n"] for entry in found.identity["datasets"].values())


def test_the_long_table_is_complete(evaluated: Results) -> None:
    assert all(list(row) == list(COLUMNS) for row in evaluated.rows)
    assert all(row["value"] is not None or row["reason"] for row in evaluated.rows)
    assert {(row["run"], row["seed"], row["protocol"]) for row in evaluated.rows} == {("tiny", 0, "strict")}
    assert {row["kind"] for row in evaluated.rows} == {"collapse", "detection", "transfer", "accuracy"}
    assert [row["tap"] for row in evaluated.select(metric="nc1_pinv", dataset="id_test")] == TAPS
    assert not any(row["metric"] == "fpr95" for row in evaluated.rows), "a bare fpr95 names no convention"
    places = [("digits", "near"), ("textures", "far"), ("mean", "near"), ("mean", "far"), ("mean", "ood")]
    detection = {
        (tap, *place, name, metric)
        for tap in TAPS
        for place in places
        for name in EvaluationConfig().detectors
        for metric in METRICS
    }
    keys = [tuple(row[key] for key in ("tap", "dataset", "group", "method", "metric")) for row in evaluated.rows]
    assert detection <= set(keys)
    keys = [
        tuple(row[key] for key in ("tap", "kind", "dataset", "group", "method", "metric")) for row in evaluated.rows
    ]
    assert len(set(keys)) == len(keys), "no measurement stands twice"


def test_run_times_stand_beside_the_numbers(evaluated: Results) -> None:
    rows = evaluated.select(metric="seconds")
    assert all(row["value"] > 0 for row in rows)
    methods = {(row["kind"], row["method"]) for row in rows}
    assert {("detection", name) for name in evaluated.identity["detectors"]} <= methods
    assert {("transfer", "linear"), ("transfer", "knn"), ("accuracy", "linear")} <= methods


def test_memory_is_that_of_what_a_detector_keeps(evaluated: Results, model: ControlledModel) -> None:
    wanted = {"kind": "detection", "metric": "memory", "tap": "encoder"}
    kept = {row["method"]: row["value"] for row in evaluated.select(**wanted)}
    dim, classes = model.tap_info["encoder"].dim, 5
    # 100 train images in float32; energy keeps the head alone, in float32 or float64.
    head = (dim + 1) * classes
    assert 4 * head <= 1e6 * kept["energy"] <= 8 * head
    assert 4 * 100 * dim <= 1e6 * kept["knn"] <= 4 * 100 * dim + 8 * (head + 200)


def test_relations_are_those_of_the_rows(evaluated: Results) -> None:
    assert evaluated.relations == relate(evaluated.rows, replicates=30, seed=0)
    assert {choice["task"] for choice in evaluated.choices} == {"detection", "transfer"}


def test_histograms_are_of_the_head_tap_and_the_encoder(evaluated: Results) -> None:
    found = evaluated.series["histograms"]
    assert {entry["tap"] for entry in found} == {"encoder", "projector"}
    assert {entry["dataset"] for entry in found} == {"id_test", "digits", "textures"}
    sizes = {name: evaluated.identity["datasets"][name]["n"] for name in ("id_test", "digits", "textures")}
    assert all(sum(entry["counts"]) == sizes[entry["dataset"]] for entry in found)


def test_results_survive_saving(evaluated: Results, tmp_path: Path) -> None:
    evaluated.save(tmp_path)
    again = Results.load(tmp_path)
    assert again.rows == evaluated.rows and again.scores.equals(evaluated.scores)


def test_equal_seeds_give_equal_results_and_the_cache_runs_no_model(
    evaluated: Results, tiny: Callable[..., ControlledModel], tmp_path: Path
) -> None:
    model = tiny()
    few = {**arguments(), "detectors": ["energy"], "probes": ["nearest_mean"], "cache": tmp_path}
    first = evaluate(model, **few)
    counter = Counting(model)
    second = evaluate(model, **few)
    assert counter.images == 0 and len(list(tmp_path.iterdir())) == 6
    timeless = [[row for row in found.rows if row["metric"] != "seconds"] for found in (first, second)]
    assert timeless[0] == timeless[1]
    where = {"kind": "detection", "method": "energy", "metric": "auroc", "dataset": "digits"}
    assert [row["value"] for row in first.select(**where)] == [row["value"] for row in evaluated.select(**where)]
    other = evaluate(model, **{**few, "id": few["id"].subset(range(50))})
    assert counter.images == 50 and other.identity["datasets"]["id_test"]["n"] == 50, "only what changed is extracted"


def test_what_is_named_twice_is_measured_once(tiny: Callable[..., ControlledModel]) -> None:
    """A probe named twice stood twice in every table."""
    twice = {"probes": ["nearest_mean"] * 2, "detectors": ["energy"] * 2, "ensembles": ["rank"] * 2, "bootstrap": 0}
    found = evaluate(tiny(), **{**arguments(), **twice}, protocols=["strict", "strict"])
    key = ("tap", "kind", "dataset", "group", "method", "metric")
    keys = [tuple(row[name] for name in key) for row in found.rows]
    assert len(set(keys)) == len(keys)
    assert found.identity["probes"] == ["nearest_mean"] and found.identity["protocol"] == "strict"
