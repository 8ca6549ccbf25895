from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from ood_nc.collapse import ClassStatistics, nc1_pinv, nc4_bias
from ood_nc.config import EvaluationConfig
from ood_nc.data import ImageDataset, eval_transform
from ood_nc.detection import FeatureDetector, create_detector, list_detectors
from ood_nc.errors import UserError
from ood_nc.evaluation import COLUMNS, Results, choose_taps, evaluate, relate
from ood_nc.features import extract
from ood_nc.models import ControlledModel
from ood_nc.scores import METRICS, fpr_at_tpr
from ood_nc.transfer import knn_probe, linear_probe

from .conftest import Counting, arguments, part

TAPS = ["layer2", "encoder", "projector"]


def value(results: Results, **equals: Any) -> float:
    (row,) = results.select(**equals)
    assert row["value"] is not None, row["reason"]
    return float(row["value"])


def bank(model: ControlledModel, dataset: ImageDataset) -> Any:
    return extract(model, dataset.with_transform(eval_transform(model.preprocessing)))


def column(results: Results, group: str, dataset: str, name: str) -> np.ndarray:
    table = results.scores
    inside = (np.array(table["group"]) == group) & (np.array(table["dataset"]) == dataset)
    return np.array(table[name].to_pylist(), dtype=object)[inside].astype(float)


def test_every_image_passes_through_the_model_once(evaluated: Results, counter: Counting) -> None:
    sets = evaluated.identity["datasets"]
    assert counter.images == sum(entry["n"] for entry in sets.values())


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


def test_collapse_is_that_of_the_features_with_the_stated_head(evaluated: Results, model: ControlledModel) -> None:
    given = arguments()
    train, test = bank(model, given["id_train"]), bank(model, given["id"])
    for split, found in (("id_train", train), ("id_test", test)):
        stats = ClassStatistics(5, model.tap_info["encoder"].dim).update(found.taps["encoder"], found.labels)
        assert value(evaluated, tap="encoder", dataset=split, metric="nc1_pinv") == pytest.approx(nc1_pinv(stats))
    stats = ClassStatistics(5, model.tap_info["projector"].dim).update(train.taps["projector"], train.labels)
    wanted = nc4_bias(stats, model.head_weight, model.head_bias)
    (row,) = evaluated.select(tap="projector", dataset="id_train", metric="nc4_bias")
    assert row["value"] == pytest.approx(wanted) and row["method"] == "head" and row["selected_on"] is None
    (row,) = evaluated.select(tap="encoder", dataset="id_train", metric="nc4_bias")
    assert row["method"] == "id_probe" and row["selected_on"] == "held out of train"
    assert evaluated.select(tap="encoder", dataset="id_train", metric="nc1_pinv")[0]["method"] is None


@pytest.mark.parametrize("name", ["energy", "mahalanobis"])
@pytest.mark.parametrize("tap", ["encoder", "projector"])
def test_detection_is_fitted_on_id_train_and_read_on_the_test_sets(
    evaluated: Results, model: ControlledModel, tap: str, name: str
) -> None:
    given = arguments()
    train, test, ood = (bank(model, found) for found in (given["id_train"], given["id"], given["ood"]["textures"]))
    if tap == model.head_tap:
        head = model.head_weight, model.head_bias
    else:
        probe = linear_probe(train.taps[tap], train.labels, test.taps[tap], test.labels, seed=0)
        head = probe.weight, probe.bias
    detector = create_detector(name).fit(train.taps[tap], train.labels, head=head)
    scores = [detector.score(found.taps[tap]).numpy() for found in (test, ood)]
    where = {"kind": "detection", "tap": tap, "method": name, "dataset": "textures"}
    labels = np.repeat([1, 0], [len(side) for side in scores])
    joined = np.concatenate(scores)
    assert value(evaluated, **where, metric="auroc") == pytest.approx(roc_auc_score(labels, joined), abs=2e-3)
    aupr = average_precision_score(1 - labels, -joined)
    assert value(evaluated, **where, metric="aupr_out") == pytest.approx(aupr, abs=2e-3)
    assert value(evaluated, **where, metric="fpr95_id_positive") == pytest.approx(fpr_at_tpr(*scores), abs=0.03)
    kept = column(evaluated, "far", "textures", f"score/{tap}/{name}")
    np.testing.assert_allclose(kept, scores[1], rtol=1e-3, atol=1e-3)


def test_rows_follow_from_the_kept_scores(evaluated: Results) -> None:
    for tap in TAPS:
        for name in evaluated.identity["detectors"]:
            ids = column(evaluated, "id", "id_test", f"score/{tap}/{name}")
            oods = column(evaluated, "near", "digits", f"score/{tap}/{name}")
            (row,) = evaluated.select(
                kind="detection", tap=tap, method=name, dataset="digits", metric="fpr95_id_positive"
            )
            assert row["value"] == fpr_at_tpr(ids, oods)
            assert row["low"] <= row["high"] and row["n"] == len(oods) == 50


def test_means_are_over_the_sets_of_a_group(evaluated: Results) -> None:
    where = {"kind": "detection", "tap": "encoder", "method": "knn", "metric": "auroc"}
    near, far = (value(evaluated, **where, dataset=name) for name in ("digits", "textures"))
    assert value(evaluated, **where, dataset="mean", group="near") == near
    assert value(evaluated, **where, dataset="mean", group="far") == far
    (both,) = evaluated.select(**where, dataset="mean", group="ood")
    assert both["value"] == pytest.approx((near + far) / 2) and both["n"] == 2
    assert both["low"] <= both["value"] <= both["high"]


def test_transfer_probes_are_those_of_the_transfer_room(evaluated: Results, model: ControlledModel) -> None:
    train, test = (bank(model, found) for found in arguments()["transfer"]["more digits"])
    parts = (train.taps["encoder"], train.labels, test.taps["encoder"], test.labels)
    for name, wanted in (("linear", linear_probe(*parts, seed=0)), ("knn", knn_probe(*parts))):
        (row,) = evaluated.select(kind="transfer", tap="encoder", dataset="more digits", method=name, metric="accuracy")
        assert row["value"] == pytest.approx(wanted.accuracy, abs=0.021) and row["n"] == len(test)
        assert row["selected_on"] == wanted.selected_on
        right = column(evaluated, "transfer", "more digits", f"correct/encoder/{name}")
        assert right.mean() == pytest.approx(row["value"])


def test_id_accuracy_of_the_head_and_of_every_probe(evaluated: Results, model: ControlledModel) -> None:
    found = evaluated.select(kind="accuracy", metric="accuracy")
    assert [(row["tap"], row["method"]) for row in found] == [*((tap, "linear") for tap in TAPS), ("projector", "head")]
    test = bank(model, arguments()["id"])
    wanted = (test.logits.argmax(1) == test.labels).double().mean()
    assert found[-1]["value"] == pytest.approx(float(wanted)) and found[-1]["low"] < found[-1]["value"]
    assert column(evaluated, "id", "id_test", "correct/projector/head").mean() == pytest.approx(float(wanted))


def test_the_tunnel_effect_stands_at_the_last_tap(evaluated: Results) -> None:
    curve = [
        value(evaluated, kind="transfer", tap=tap, dataset="more digits", method="linear", metric="accuracy")
        for tap in TAPS
    ]
    ids = [value(evaluated, kind="accuracy", tap=tap, method="linear", metric="accuracy") for tap in TAPS]
    assert value(evaluated, metric="retained", tap="projector") == pytest.approx(100 * curve[-1] / max(curve))
    assert value(evaluated, metric="id_correlation") == pytest.approx(np.corrcoef(ids, curve)[0, 1])
    classes = arguments()["transfer"]["more digits"][0].num_classes
    aligned = (ids[1] - 1 / 5) * (curve[1] - 1 / classes)
    assert value(evaluated, metric="id_alignment", tap="encoder") == pytest.approx(aligned)


def test_the_identity_says_what_was_evaluated(evaluated: Results, model: ControlledModel) -> None:
    identity = evaluated.identity
    assert identity["run"] == "tiny" and identity["model"] == model.backbone_name
    assert identity["taps"][1] == {"name": "encoder", "depth": 1, "pooling": "native", "dim": model.encoder_dim}
    assert identity["head_tap"] == "projector" and identity["classes"] == 5 and len(identity["weights_hash"]) == 64
    assert identity["detectors"] == EvaluationConfig().detectors and identity["probes"] == EvaluationConfig().probes
    textures = identity["datasets"]["textures"]
    n = len(arguments()["ood"]["textures"])
    assert (textures["n"], textures["n_id"], textures["group"]) == (n, 60, "far")
    assert textures["base_rate"] == pytest.approx(n / (n + 60)), "beside every AUPR"
    assert textures["fingerprint"] and textures["duplicates"] == {}
    assert {"torch", "timm", "ood_nc"} <= set(identity["versions"])
    seconds = identity["seconds"]
    parts = {"preparation", "features", "id_probes", "collapse", "detection", "transfer", "relations"}
    assert set(seconds) == parts | {"total"} and sum(seconds[name] for name in parts) <= seconds["total"]


def test_run_times_stand_beside_the_numbers(evaluated: Results) -> None:
    rows = evaluated.select(metric="seconds")
    assert all(row["value"] > 0 for row in rows)
    methods = {(row["kind"], row["method"]) for row in rows}
    assert {("detection", name) for name in evaluated.identity["detectors"]} <= methods
    assert {("transfer", "linear"), ("transfer", "knn"), ("accuracy", "linear")} <= methods


def test_relations_and_choices_are_those_of_the_rows(evaluated: Results) -> None:
    assert evaluated.relations == relate(evaluated.rows, replicates=30, seed=0)
    assert evaluated.choices == choose_taps(evaluated.rows)
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


class Failing(FeatureDetector):
    """Raises while scoring."""

    name = "failing"
    info = None  # type: ignore[assignment]
    requires = frozenset({"features"})

    def _fit(self, train: Any) -> None:
        self.fitted_ = True

    def _score(self, queries: Any) -> torch.Tensor:
        raise RuntimeError("no score\nat all")


def test_a_detector_that_raises_costs_only_its_own_rows(
    tiny: Callable[..., ControlledModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    def create(name: str) -> FeatureDetector:
        return Failing() if name == "msp" else create_detector(name)

    monkeypatch.setattr("ood_nc.evaluation.detection.create_feature_detector", create)
    found = evaluate(tiny(), **{**arguments(), "detectors": ["msp", "energy"], "probes": [], "bootstrap": 0})
    failed = found.select(kind="detection", method="msp")
    assert failed and all(row["value"] is None and row["reason"] == "RuntimeError: no score at all" for row in failed)
    assert {row["dataset"] for row in failed} == {"digits", "textures"}
    assert all(row["value"] is not None and row["low"] is None for row in found.select(method="energy", metric="auroc"))
    assert "score/encoder/msp" not in found.scores.column_names


def test_a_set_that_cannot_be_scored_costs_only_its_own_rows(
    tiny: Callable[..., ControlledModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflowing(model: Any, dataset: ImageDataset, **options: Any) -> Any:
        found = extract(model, dataset, **options)
        if dataset.name.startswith("bundled/textures"):
            found.taps["encoder"][3] = torch.inf
        return found

    monkeypatch.setattr("ood_nc.evaluation.fitting.extract", overflowing)
    found = evaluate(tiny(), **{**arguments(), "detectors": ["knn"], "probes": [], "bootstrap": 0})
    where = {"kind": "detection", "metric": "auroc", "method": "knn"}
    (row,) = found.select(**where, tap="encoder", dataset="textures")
    assert row["value"] is None and "infinity" in row["reason"]
    assert value(found, **where, tap="encoder", dataset="digits") == value(found, **where, tap="encoder", group="ood")
    assert value(found, **where, tap="layer2", dataset="textures") > 0


def test_an_untrained_head_is_not_used(tiny: Callable[..., ControlledModel]) -> None:
    model = tiny()
    model.class_names = None
    given = {**arguments(), "transfer": {}, "ood": {}, "groups": {}, "detectors": ["energy"], "bootstrap": 0}
    assert any("no trained head" in note for note in evaluate(model, **given).identity["notes"])
    model.head_is_fresh = False
    found = evaluate(model, **given)
    assert any("in order" in note for note in found.identity["notes"])
    assert value(found, kind="accuracy", method="head") >= 0


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


def write_images(folder: Path, n: int, *, broken: int = 0, seed: int = 0) -> None:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    for index in range(n):
        Image.fromarray(generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    for index in range(broken):
        (folder / f"broken{index}.png").write_bytes(b"no image")


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


def test_globs_name_detectors(model: ControlledModel) -> None:
    from ood_nc.evaluation.suite import _detectors

    assert _detectors(["ma*", "energy", "max_logit"]) == ["mahalanobis", "max_cosine", "max_logit", "energy"]
    # A glob never asks for a detector that goes over every image again; its name in full does.
    assert set(list_detectors(kind="input")).isdisjoint(_detectors(["*"]))
    assert _detectors(["odin"]) == ["odin"]
