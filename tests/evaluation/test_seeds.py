"""Means and intervals over seeds, against scipy's own."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ood_nc.errors import UserError
from ood_nc.evaluation import Results, over_seeds
from ood_nc.evaluation.results import make_row
from tests.helpers.rows import collapse_row, detection_row

IDENTITY = {"head_tap": "encoder", "detectors": ["knn"], "probes": ["linear"], "taps": [{"name": "encoder"}]}
VALUES = {0: 0.5, 1: 0.25, 4: 0.6}


def result(seed: int, value: float, **more: float | None) -> Results:
    same = {"run": f"a-seed{seed}", "seed": seed, "tap": "encoder", "depth": 1, "protocol": "strict"}
    detection = {"kind": "detection", "dataset": "mean", "group": "ood", "method": "knn"}
    transfer = {"kind": "transfer", "dataset": "mean", "group": "transfer", "method": "linear"}
    rows = [
        make_row(same | detection, metric="fpr95_id_positive", value=value),
        make_row(same | transfer, metric="accuracy", value=value),
    ]
    rows += [make_row(same | detection, metric=name, value=number, reason="none") for name, number in more.items()]
    return Results(rows=rows, identity={**IDENTITY, "run": f"a-seed{seed}", "seed": seed})


def test_the_interval_is_students_over_seeds() -> None:
    document = over_seeds([result(seed, value) for seed, value in VALUES.items()])
    (row,) = [row for row in document["seeds"] if row["kind"] == "detection"]
    values = np.array(list(VALUES.values()))
    assert row["by_seed"] == VALUES and row["value"] == pytest.approx(values.mean())
    expected = stats.t.interval(0.95, len(values) - 1, loc=values.mean(), scale=stats.sem(values))
    assert (row["low"], row["high"]) == pytest.approx(expected)


def test_every_seed_is_in_the_sentence_and_errors_have_one_sign() -> None:
    detection, transfer = over_seeds([result(seed, value) for seed, value in VALUES.items()])["verdicts"]
    assert detection.startswith("mean FPR95 (ID positive) by knn: 45.0 % [")
    assert detection.endswith("over 3 seeds (seed 0 50.0, seed 1 25.0, seed 4 60.0).")
    assert transfer.startswith("mean transfer error by the linear probe: 55.0 % [")
    assert transfer.endswith("(seed 0 50.0, seed 1 75.0, seed 4 40.0).")


def test_a_number_that_one_seed_lacks_is_in_no_mean() -> None:
    document = over_seeds([result(0, 0.5, auroc=0.5), result(1, 0.5, auroc=None)])
    assert {row["metric"] for row in document["seeds"]} == {"fpr95_id_positive", "accuracy"}


@pytest.mark.parametrize("seeds", [[0], [1, 1], []])
def test_fewer_than_two_seeds_have_no_interval(seeds: list[int]) -> None:
    with pytest.raises(UserError, match="two runs or more, each of its own seed"):
        over_seeds([result(seed, 0.5) for seed in seeds])


def test_an_interval_of_few_seeds_ends_where_shares_do() -> None:
    detection, transfer = over_seeds([result(0, 0.02), result(1, 0.05)])["verdicts"]
    assert detection.startswith("mean FPR95 (ID positive) by knn: 3.5 % [0.0, 22.6]")
    assert transfer.startswith("mean transfer error by the linear probe: 96.5 % [77.4, 100.0]")


def test_means_over_other_numbers_of_sets_are_no_mean_over_seeds() -> None:
    runs = [result(0, 0.5), result(1, 0.2)]
    for number, run in enumerate(runs):
        for row in run.rows:
            row["n"] = 2 - number if row["kind"] == "detection" else 2
    document = over_seeds(runs)
    assert [row["kind"] for row in document["seeds"]] == ["transfer"]
    assert document["verdicts"][0] == (
        "mean FPR95 (ID positive) by knn: no mean, for not every seed has it over the same sets."
    )


def test_means_over_as_many_other_sets_are_no_mean_over_seeds() -> None:
    """One seed was evaluated on svhn, the other on places; both have one far set."""
    runs = [result(0, 0.5), result(1, 0.2)]
    for run, name in zip(runs, ("svhn", "places"), strict=True):
        run.rows += [{**row, "dataset": name, "group": "far"} for row in run.rows if row["kind"] == "detection"]
    document = over_seeds(runs)
    assert [row["kind"] for row in document["seeds"]] == ["transfer"]
    assert document["verdicts"][0] == (
        "mean FPR95 (ID positive) by knn: no mean, for not every seed has it over the same sets."
    )


def test_runs_of_one_name_are_told_apart_in_the_relations_and_seeds_are_those_of_the_names() -> None:
    runs = []
    for seed in (0, 1):
        one = result(seed, 0.5)
        for depth, tap in enumerate(("layer1", "layer2", "encoder")):
            one.rows += [collapse_row(tap, 1.0 + depth * seed), detection_row(tap, "svhn", 0.1 * depth)]
        one.identity["run"] = "a"
        runs.append(one)
    document = over_seeds(runs)
    relations = [row for row in document["relations"] if (row["method"], row["normalized"]) == ("energy", False)]
    assert [row["n"] for row in relations] == [6]
    for seed, one in enumerate(runs):
        one.identity |= {"run": f"a-seed{seed + 3}", "seed": 0}
    assert over_seeds(runs)["seeds"][0]["by_seed"].keys() == {3, 4}
