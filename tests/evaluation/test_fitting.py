"""What is settled on held-out ID: hyper-parameters, ensembles; and detectors that read images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ood_nc.data import eval_transform
from ood_nc.detection import TapQueries, TapStatistics, create_detector, select, synthetic_outliers
from ood_nc.errors import UserError
from ood_nc.evaluation import Results, evaluate
from ood_nc.features import extract
from ood_nc.models import ControlledModel
from ood_nc.scores import ScoreEnsemble, auroc
from tests.evaluation.conftest import arguments, part

VAL = "bundled/digits-id::test"


def run(model: ControlledModel, **options: Any) -> Results:
    given = {**arguments(), "probes": [], "bootstrap": 0, "transfer": {}, **options}
    return evaluate(model, **given)


def features(model: ControlledModel, dataset: Any, tap: str) -> Any:
    return extract(model, dataset.with_transform(eval_transform(model.preprocessing))).taps[tap]


@pytest.fixture(scope="module")
def chosen(model: ControlledModel) -> Results:
    return run(model, detectors=["knn", "max_logit"], choose="synthetic", id_val=validation())


def validation() -> Any:
    whole = part(VAL, 200)
    return whole.subset(range(120, 200))


def test_the_ledger_says_what_hyper_parameters_were_chosen_on(chosen: Results) -> None:
    rows = chosen.select(kind="detection", method="knn", tap="encoder", metric="auroc")
    assert rows and all(row["selected_on"].startswith("held-out ID and synthetic outliers (k=") for row in rows)
    # Nothing to choose, nothing claimed.
    assert all(
        row["selected_on"] is None for row in chosen.select(kind="detection", method="max_logit", tap="projector")
    )
    assert chosen.identity["choose"] == "synthetic"


def test_the_choice_is_that_of_the_search_by_hand(model: ControlledModel, chosen: Results) -> None:
    given = arguments()
    train, held_out = given["id_train"], validation()
    statistics = TapStatistics(features(model, train, "encoder"), train.targets)
    val = features(model, held_out, "encoder")
    outliers = TapQueries(synthetic_outliers(val, held_out.targets, seed=0))
    found = select("knn", statistics, TapQueries(val), outliers, selected_on="x", seed=0)
    detector = create_detector("knn", **found.parameters).fit(statistics)
    expected = auroc(
        detector.score(features(model, given["id"], "encoder")),
        detector.score(features(model, given["ood"]["digits"], "encoder")),
    )
    (row,) = chosen.select(kind="detection", method="knn", tap="encoder", metric="auroc", dataset="digits")
    assert row["value"] == pytest.approx(expected, abs=1e-9)


def test_a_validation_ood_set_is_in_no_result(model: ControlledModel) -> None:
    found = run(model, detectors=["knn"], choose="digits")
    assert not found.select(dataset="digits")
    (row,) = found.select(kind="detection", method="knn", tap="encoder", metric="auroc", dataset="textures")
    assert row["selected_on"].startswith("held-out ID and digits (")
    assert "digits" not in found.identity["datasets"]
    notes = " ".join(found.identity["notes"])
    assert "digits: hyper-parameters are chosen on it, so it is in no result" in notes
    # Without an ID validation set a tenth of ID train takes its place, outside the fit.
    assert "a tenth of ID train (10 images, stratified, seed 0) is held out of the fits" in notes
    assert found.identity["datasets"]["id_train"]["n"] == 90
    with pytest.raises(UserError, match=r"cannot be chosen on 'digts': no such OOD set\. Did you mean 'digits'"):
        run(model, detectors=["knn"], choose="digts")


def test_ensembles_over_taps_and_over_detectors(model: ControlledModel) -> None:
    found = run(model, detectors=["knn", "mahalanobis"], ensembles=["zscore", "fisher"], id_val=validation())
    given, held_out = arguments(), validation()
    columns: dict[str, list[np.ndarray]] = {"val": [], "id": [], "ood": []}
    for tap in model.tap_names:
        detector = create_detector("knn").fit(features(model, given["id_train"], tap))
        for key, dataset in (("val", held_out), ("id", given["id"]), ("ood", given["ood"]["digits"])):
            columns[key].append(detector.score(features(model, dataset, tap)).numpy())
    members = {key: np.stack(parts, axis=1) for key, parts in columns.items()}
    for combine in ("zscore", "fisher"):
        ensemble = ScoreEnsemble(combine).fit(members["val"])
        expected = auroc(ensemble.score(members["id"]), ensemble.score(members["ood"]))
        (row,) = found.select(method=f"{combine}(knn over taps)", metric="auroc", dataset="digits")
        assert row["value"] == pytest.approx(expected, abs=1e-9)
        assert row["tap"] == model.head_tap
        assert len(found.select(method=f"{combine}(detectors)", metric="auroc", dataset="digits")) == 3
    assert f"score/{model.head_tap}/fisher(knn over taps)" in found.scores.column_names
    assert not [name for name in found.scores.column_names if "id_val" in name]
    assert {entry["dataset"] for entry in found.series["histograms"]} == {"id_test", "digits", "textures"}


def test_one_detector_gives_no_ensemble_over_detectors(model: ControlledModel) -> None:
    found = run(model, detectors=["knn"], ensembles=["rank"], id_val=validation())
    rows = found.select(method="rank(detectors)", metric="auroc")
    assert rows and all(row["value"] is None and "two scores or more" in row["reason"] for row in rows)
    with pytest.raises(UserError, match="Unknown ensemble method 'median'"):
        run(model, detectors=["knn"], ensembles=["median"])


def test_input_detectors_run_when_named(model: ControlledModel) -> None:
    found = run(model, detectors=["energy", "odin"])
    given = arguments()
    transform = eval_transform(model.preprocessing)
    detector = create_detector("odin").fit(model)
    scores = []
    for dataset in (given["id"], given["ood"]["digits"]):
        items = dataset.with_transform(transform)
        scores.append([float(detector.score(items[index][0][None])) for index in range(len(items))])
    (row,) = found.select(method="odin", metric="auroc", dataset="digits")
    assert row["value"] == pytest.approx(auroc(*map(np.array, scores)), abs=1e-9)
    assert row["tap"] == model.head_tap
