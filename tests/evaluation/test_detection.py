from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from ood_nc.data import ImageDataset
from ood_nc.detection import FeatureDetector, create_detector
from ood_nc.evaluation import Results, evaluate
from ood_nc.features import extract
from ood_nc.models import ControlledModel
from ood_nc.scores import fpr_at_tpr
from ood_nc.transfer import linear_probe
from tests.helpers.tiny import arguments, bank, column, value

TAPS = ["layer2", "encoder", "projector"]


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


@pytest.mark.slow
def test_sets_that_are_scored_as_one_have_the_scores_of_each(
    model: ControlledModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**arguments(), "detectors": ["*"], "probes": [], "bootstrap": 0}
    together = evaluate(model, **options)
    monkeypatch.setattr("ood_nc.evaluation.detection.SMALL", 0)
    apart = evaluate(model, **options)
    names = [name for name in apart.scores.column_names if name.startswith("score/")]
    assert len(names) > 100 and together.scores.column_names == apart.scores.column_names
    for name in names:
        ours, theirs = (one.scores[name].to_numpy(zero_copy_only=False) for one in (together, apart))
        # Rounding of products, which depends on how many rows there are.
        scale = np.nanstd(theirs) + np.abs(np.nanmean(theirs))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * scale, err_msg=name)
