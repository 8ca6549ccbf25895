from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ood_nc.errors import UserError
from ood_nc.evaluation import Results, evaluate
from tests.helpers.samples import clusters

FEW = {"detectors": ["knn", "mahalanobis"], "probes": ["nearest_mean"], "bootstrap": 20}


def features(*covariate: str) -> dict[str, np.ndarray]:
    """ID classes, the same shifted, and two OOD sets."""
    found: dict[str, np.ndarray] = {}
    for name, n, seed in (("id_train", 200, 0), ("id_test", 80, 1)):
        found[f"{name}/encoder"], found[f"{name}/labels"] = clusters(n, 8, 4, 0.3, seed)
    for number, name in enumerate(covariate):
        found[f"covariate/{name}/encoder"] = clusters(60, 8, 4, 0.3, 2 + number)[0] + 0.4 * (number + 1)
    for name, shift in (("near/close", 1.0), ("far/away", 3.0)):
        found[f"{name}/encoder"] = np.random.default_rng(9).normal(size=(50, 8)).astype(np.float32) * shift
    return found


@pytest.fixture(scope="module")
def results() -> Results:
    return evaluate(features=features("blurred", "dark"), protocols=("strict", "full_spectrum"), **FEW)


def test_shifted_images_count_as_id(results: Results) -> None:
    assert results.scores is not None
    table = {name: np.array(column) for name, column in results.scores.to_pydict().items()}
    for method in FEW["detectors"]:
        column = f"score/encoder/{method}"
        for ood, group in (("close", "near"), ("away", "far")):
            sides = [
                table[column][table["dataset"] == name].astype(float) for name in ("id_test", "blurred", "dark", ood)
            ]
            truth = np.repeat([1, 1, 1, 0], [len(side) for side in sides])
            (row,) = results.select(
                protocol="full_spectrum", tap="encoder", method=method, dataset=ood, group=group, metric="auroc"
            )
            assert row["value"] == pytest.approx(roc_auc_score(truth, np.concatenate(sides)), abs=1e-12)
            assert row["low"] <= row["value"] <= row["high"] and row["n"] == 50


def test_its_rows_are_those_of_ood_sets_and_their_means_alone(results: Results) -> None:
    rows = results.select(protocol="full_spectrum")
    assert {(row["dataset"], row["group"]) for row in rows} == {
        ("close", "near"), ("away", "far"), ("mean", "near"), ("mean", "far"), ("mean", "ood"),
    }  # fmt: skip
    assert {row["kind"] for row in rows} == {"detection"}
    assert all(row["protocol"] == "strict" for row in results.main_rows)
    assert any(
        note.startswith("full_spectrum: ID test (80) and blurred (60), dark (60)") for note in results.identity["notes"]
    )


def test_a_detector_that_takes_every_shift_for_ood_loses(results: Results) -> None:
    where = {"tap": "encoder", "method": "mahalanobis", "dataset": "close", "metric": "auroc"}
    strict, full = (results.select(protocol=name, **where)[0]["value"] for name in ("strict", "full_spectrum"))
    assert full < strict - 0.02


def test_what_it_needs_is_told_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ood_nc.evaluation.suite.extract_banks", None)
    with pytest.raises(UserError, match="needs a covariate-shifted OOD set"):
        evaluate(features=features(), protocols=("strict", "full_spectrum"), **FEW)
    with pytest.raises(UserError, match="beside strict"):
        evaluate(features=features("dark"), protocols=("full_spectrum",), **FEW)


def test_a_detector_without_scores_on_a_shifted_set_is_undefined_and_not_that_of_the_others_alone() -> None:
    broken = features("blurred", "dark")
    broken["covariate/dark/encoder"][3] = np.nan
    found = evaluate(features=broken, protocols=("strict", "full_spectrum"), **FEW)
    rows = found.select(protocol="full_spectrum", metric="auroc")
    assert rows and {row["value"] for row in rows} == {None}
    assert {row["reason"] for row in rows} == {"no scores on dark, which the ID side holds"}


def test_an_ood_set_that_cannot_be_scored_has_the_reason_of_the_strict_protocol() -> None:
    """It was said to hold no readable image."""
    broken = features("blurred")
    broken["near/close/encoder"][3] = np.nan
    found = evaluate(features=broken, protocols=("strict", "full_spectrum"), **FEW)
    where = {"dataset": "close", "metric": "auroc", "method": "mahalanobis", "tap": "encoder"}
    strict, full = (found.select(protocol=name, **where)[0]["reason"] for name in ("strict", "full_spectrum"))
    assert full == strict and "NaN" in full
