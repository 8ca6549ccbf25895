"""What is settled on held-out ID: hyper-parameters."""

from __future__ import annotations

import pytest

from ood_nc.detection import TapQueries, TapStatistics, create_detector, select, synthetic_outliers
from ood_nc.errors import UserError
from ood_nc.evaluation import Results
from ood_nc.models import ControlledModel
from ood_nc.scores import auroc
from tests.helpers.tiny import (
    arguments,
    features_of,
    run_few,
    validation,
)


@pytest.fixture(scope="module")
def chosen(model: ControlledModel) -> Results:
    return run_few(model, detectors=["knn", "max_logit"], choose="synthetic", id_val=validation())


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
    statistics = TapStatistics(features_of(model, train, "encoder"), train.targets)
    val = features_of(model, held_out, "encoder")
    outliers = TapQueries(synthetic_outliers(val, held_out.targets, seed=0))
    found = select("knn", statistics, TapQueries(val), outliers, selected_on="x", seed=0)
    detector = create_detector("knn", **found.parameters).fit(statistics)
    expected = auroc(
        detector.score(features_of(model, given["id"], "encoder")),
        detector.score(features_of(model, given["ood"]["digits"], "encoder")),
    )
    (row,) = chosen.select(kind="detection", method="knn", tap="encoder", metric="auroc", dataset="digits")
    assert row["value"] == pytest.approx(expected, abs=1e-9)


def test_a_validation_ood_set_is_in_no_result(model: ControlledModel) -> None:
    found = run_few(model, detectors=["knn"], choose="digits")
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
        run_few(model, detectors=["knn"], choose="digts")
