"""Several scores as one, over taps and over detectors."""

from __future__ import annotations

import numpy as np
import pytest

from ood_nc.detection import create_detector
from ood_nc.errors import UserError
from ood_nc.evaluation import evaluate
from ood_nc.models import ControlledModel
from ood_nc.scores import ScoreEnsemble, auroc
from tests.helpers.samples import clusters
from tests.helpers.tiny import (
    arguments,
    features_of,
    run_few,
    validation,
)


def test_ensembles_over_taps_and_over_detectors(model: ControlledModel) -> None:
    found = run_few(model, detectors=["knn", "mahalanobis"], ensembles=["zscore", "fisher"], id_val=validation())
    given, held_out = arguments(), validation()
    columns: dict[str, list[np.ndarray]] = {"val": [], "id": [], "ood": []}
    for tap in model.tap_names:
        detector = create_detector("knn").fit(features_of(model, given["id_train"], tap))
        for key, dataset in (("val", held_out), ("id", given["id"]), ("ood", given["ood"]["digits"])):
            columns[key].append(detector.score(features_of(model, dataset, tap)).numpy())
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
    found = run_few(model, detectors=["knn"], ensembles=["rank"], id_val=validation())
    rows = found.select(method="rank(detectors)", metric="auroc")
    assert rows and all(row["value"] is None and "two scores or more" in row["reason"] for row in rows)
    with pytest.raises(UserError, match="Unknown ensemble method 'median'"):
        run_few(model, detectors=["knn"], ensembles=["median"])


@pytest.mark.parametrize(("where", "reason"), [("id_val", "a member has no scores on held-out ID"),
                                               ("ood/far", "a member has no scores there")])  # fmt: skip
def test_what_no_member_scores_is_undefined_and_the_rest_goes_on(where: str, reason: str) -> None:
    arrays = {}
    for seed, name in enumerate(("id_train", "id_val", "id_test")):
        arrays[f"{name}/encoder"], arrays[f"{name}/labels"] = clusters(80, 8, 4, 0.3, seed)
    arrays["ood/far/encoder"] = clusters(40, 8, 4, 0.3, 3)[0] + 2
    arrays[f"{where}/encoder"][5] = np.nan
    found = evaluate(features=arrays, detectors=["energy", "msp"], ensembles=["rank"], probes=[], bootstrap=0)
    (row,) = found.select(method="rank(detectors)", metric="auroc", dataset="far")
    assert (row["value"], row["reason"]) == (None, reason)
    assert (found.select(method="msp", metric="auroc", dataset="far")[0]["value"] is None) == (where == "ood/far")
