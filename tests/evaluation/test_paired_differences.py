from __future__ import annotations

from typing import Any

import numpy as np
import pytest

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
