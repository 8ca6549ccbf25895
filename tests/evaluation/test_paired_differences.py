from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ood_nc.evaluation import Results, compare, evaluate
from ood_nc.evaluation.common_samples import CommonSamples
from ood_nc.evaluation.paired_differences import Cell, Difference, differences, left_out, with_means
from ood_nc.evaluation.scores_table import Samples, read_samples, scores_table
from ood_nc.scores import auroc

IDENTITY: dict[str, Any] = {"taps": [{"name": "encoder"}], "head_tap": "encoder"}
IDENTITY |= {"detectors": ["knn", "energy", "msp"], "probes": ["linear"]}


def samples(seed: int, *, ids: int = 40, oods: int = 30) -> Samples:
    generator = np.random.default_rng(seed)
    sets = []
    for group, name, n in (("id", "id_test", ids), ("near", "a", oods), ("far", "b", oods), ("covariate", "c", oods)):
        columns = {f"score/encoder/{method}": generator.normal(size=n) for method in ("knn", "energy", "msp")}
        sets.append((group, name, tuple(map(str, range(n))), columns))
    right = {"correct/encoder/linear": generator.random(20) < 0.5}
    sets.append(("transfer", "birds", tuple(map(str, range(20))), right))
    return read_samples(scores_table(sets))


def told(a: Samples, b: Samples) -> dict[Cell, Difference]:
    """The differences of one pair with their means."""
    found = differences(CommonSamples([a, b], 0, 0), IDENTITY, IDENTITY)
    return {cell: one for cell, (one,) in with_means({cell: [one] for cell, one in found.items()}, 1).items()}


def test_every_place_is_compared_once_and_the_headline_is_marked() -> None:
    found = told(samples(0), samples(1))
    detection = {cell: one for cell, one in found.items() if cell.kind == "detection"}
    # Three sets and the means of near, far, covariate and ood; two metrics; three detectors.
    assert len(detection) == (3 + 4) * 2 * 3
    assert {cell.method[0] for cell in detection if cell.headline} == {"knn", "energy"}
    assert {cell.metric for cell in found if cell.kind == "transfer"} == {"transfer_error"}
    assert all(len(one.values) == 1 for one in found.values()), "no replicate was asked for"


def test_a_mean_is_that_of_its_sets_without_covariate_ones() -> None:
    a, b = samples(0), samples(1)
    found = told(a, b)
    column = "score/encoder/knn"

    def gain(name: str) -> float:
        values = [auroc(run.get(("id", "id_test"), column), run.get(("ood", name), column)) for run in (b, a)]
        return values[0] - values[1]

    (mean,) = (
        one.values[0]
        for cell, one in found.items()
        if (cell.dataset, cell.group, cell.method[0], cell.metric) == ("mean", "ood", "knn", "auroc")
    )
    assert mean == pytest.approx((gain("a") + gain("b")) / 2)


def test_sets_that_are_not_shared_completely_are_named() -> None:
    pair = CommonSamples([samples(0), samples(1, oods=25)], 0, 0)
    assert left_out(pair) == ["a, b, c: of 30 and 25 images, the 25 in both runs are compared"]


def test_runs_of_other_detectors_are_compared_by_the_first_of_each() -> None:
    other = {**IDENTITY, "detectors": ["msp"]}
    only = {**IDENTITY, "detectors": ["knn"]}
    found = differences(CommonSamples([samples(0), samples(1)], 0, 0), only, other)
    assert {cell.method for cell in found if cell.kind == "detection"} == {("knn", "msp")}


def test_few_shot_probes_are_compared_by_the_share_of_draws_that_are_right() -> None:
    """They kept no answers by image: where one was the only probe, nothing on transfer was compared."""
    rng = np.random.default_rng(0)

    def run(shift: float) -> Results:
        labels = np.arange(60) % 3
        arrays = {"id_train/encoder": rng.normal(size=(60, 4)), "id_train/labels": labels}
        arrays |= {"id_test/encoder": rng.normal(size=(60, 4)), "id_test/labels": labels}
        for part in ("train", "test"):
            features = rng.normal(size=(60, 4)) + shift * np.eye(4)[labels]
            arrays |= {f"transfer/pets/{part}/encoder": features, f"transfer/pets/{part}/labels": labels}
        return evaluate(features=arrays, detectors=[], probes=["few_shot_1"], bootstrap=0)

    a, b = run(1.0), run(2.0)
    (row_a,), (row_b,) = (one.select(kind="transfer", dataset="pets", metric="accuracy") for one in (a, b))
    pair = CommonSamples([a.samples(), b.samples()], 20, 0)
    (cell,) = found = differences(pair, a.identity, b.identity)
    assert (cell.headline, cell.metric, cell.dataset) == (True, "transfer_error", "pets")
    assert found[cell].values[0] == pytest.approx(row_a["value"] - row_b["value"])
    right = [one.samples().get(("transfer", "pets"), "correct/encoder/few_shot_1") for one in (a, b)]
    assert right[0] is not None and right[1] is not None and set(np.round(10 * right[0], 6) % 1) == {0.0}
    for drawn, value in zip(pair.counts["transfer", "pets"], found[cell].values[1:], strict=True):
        rows = np.repeat(np.arange(60), drawn)
        assert value == pytest.approx(right[0][rows].mean() - right[1][rows].mean())
    errors = {
        one["run"]: one["value"]
        for one in compare([a, b], replicates=20)["standings"]
        if one["metric"] == "transfer_error"
    }
    assert list(errors.values()) == pytest.approx([1 - row_a["value"], 1 - row_b["value"]])
