from __future__ import annotations

import functools
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from ood_nc.cli import main
from ood_nc.errors import UserError
from ood_nc.evaluation.detection import detection_rows
from ood_nc.evaluation.measurement_plan import Resamples
from ood_nc.evaluation.results import make_row
from ood_nc.scores import METRICS, bootstrap_intervals, check_metric, detection_metrics, score_metric
from tests.plugins.installed import install

OWN_METRIC = """
import numpy as np
from ood_nc.scores import ScoreMetric

certain = ScoreMetric(
    "share of OOD below every ID sample",
    lambda counts: np.where(counts.id_through == 0, counts.ood_through, 0).max(axis=-1) / counts.m,
    "max",
)
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    points = {"ood_nc.score_metrics": "certain = own_metric:certain"}
    monkeypatch.syspath_prepend(install(tmp_path / "site", "own_metric", OWN_METRIC, points))
    yield
    sys.modules.pop("own_metric", None)


def test_a_plug_in_of_one_file_is_measured_with_its_interval(plugin, capsys):
    check_metric("certain")
    ids, oods = np.arange(5.0, 15.0), np.arange(0.0, 10.0)
    assert detection_metrics(ids, oods)["certain"] == 0.5
    assert list(bootstrap_intervals(ids, oods, ["certain"])) == ["certain"]
    assert main(["list", "metrics", "certain"]) == 0
    assert "detection/certain" in capsys.readouterr().out
    inputs = SimpleNamespace(groups={"noise": "far"}, overlap={})
    make = functools.partial(make_row, {"run": "run", "kind": "detection", "method": "msp", "tap": "encoder"})
    scores = {"id_test": ids, "ood/noise": oods}
    plan = SimpleNamespace(inputs=inputs, ids={"ood/noise": ["a"] * 10}, resamples=Resamples(50, 0))
    rows = detection_rows(scores, {}, plan, make)
    (row,) = [row for row in rows if row["metric"] == "certain" and row["dataset"] == "noise"]
    assert (row["value"], row["n"]) == (0.5, 10)
    assert row["low"] < 0.5 < row["high"]


def test_names_and_their_mistakes():
    assert {"auroc", "fpr95_id_positive", "aupr_in"} <= set(METRICS)
    with pytest.raises(UserError, match=r"Unknown detection metric 'aurocc'\. Did you mean 'auroc'\?"):
        METRICS["aurocc"]
    with pytest.raises(UserError, match="'auroc' is taken"):
        score_metric("auroc", "another", "sum")(lambda counts: counts.id[:, 0])
    with pytest.raises(UserError, match="no ScoreMetric by sum, min or max"):
        score_metric("mean", "another", "mean")(lambda counts: counts.id[:, 0])
