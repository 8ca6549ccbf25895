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


FAILING = """
import numpy as np
from ood_nc.scores import ScoreMetric


def _fail(counts):
    raise RuntimeError("no such count")


def _fail_on_eight(counts):
    if counts.m == 8:
        raise ZeroDivisionError("eight")
    return np.zeros(len(counts.id))


failing = ScoreMetric("raises", _fail, "sum")
brittle = ScoreMetric("raises on eight", _fail_on_eight, "sum")
ragged = ScoreMetric("of another shape", lambda counts: np.zeros((3, 4)), "sum")
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    points = {"ood_nc.score_metrics": "certain = own_metric:certain"}
    monkeypatch.syspath_prepend(install(tmp_path / "site", "own_metric", OWN_METRIC, points))
    yield
    sys.modules.pop("own_metric", None)


def measured(**scores):
    sets = {("" if name == "id_test" else "ood/") + name: values for name, values in scores.items()}
    inputs = SimpleNamespace(groups={name: "far" for name in scores if name != "id_test"}, overlap={})
    make = functools.partial(make_row, {"run": "run", "kind": "detection", "method": "msp", "tap": "encoder"})
    ids = {key: ["a"] * len(values) for key, values in sets.items()}
    return detection_rows(sets, {}, SimpleNamespace(inputs=inputs, ids=ids, resamples=Resamples(50, 0)), make)


def test_a_plug_in_that_raises_costs_its_own_number_alone(tmp_path, monkeypatch):
    """It ended the whole evaluation."""
    ids, oods, tied = np.arange(5.0, 15.0), np.arange(0.5, 10.0), np.zeros(8)
    alone = measured(id_test=ids, noise=oods, tied=tied)
    points = "\n".join(f"{name} = own_failing:{name}" for name in ("failing", "brittle", "ragged", "absent"))
    monkeypatch.syspath_prepend(install(tmp_path / "site", "own_failing", FAILING, {"ood_nc.score_metrics": points}))
    try:
        rows = measured(id_test=ids, noise=oods, tied=tied)
    finally:
        sys.modules.pop("own_failing", None)
    own = [row for row in rows if row["metric"] not in ("failing", "brittle", "ragged", "absent")]
    assert own == alone, "the others are what they are without it"
    reasons = {row["metric"]: row["reason"] for row in rows if row["dataset"] == "noise"}
    assert reasons["failing"] == "RuntimeError: no such count" and "absent" in reasons["absent"]
    assert reasons["brittle"] is None and reasons["ragged"]
    undefined = {row["metric"] for row in rows if row["dataset"] == "mean" and row["value"] is None}
    assert undefined == {"failing", "brittle", "ragged", "absent"}, "a mean over the other sets is none"


def test_a_plug_in_of_one_file_is_measured_with_its_interval(plugin, capsys):
    check_metric("certain")
    ids, oods = np.arange(5.0, 15.0), np.arange(0.0, 10.0)
    assert detection_metrics(ids, oods)["certain"] == 0.5
    assert list(bootstrap_intervals(ids, oods, ["certain"])) == ["certain"]
    assert main(["list", "metrics", "certain"]) == 0
    assert "detection/certain" in capsys.readouterr().out
    rows = measured(id_test=ids, noise=oods)
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
