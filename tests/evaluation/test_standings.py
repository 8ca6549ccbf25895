from __future__ import annotations

import numpy as np
import pytest

from ood_nc.evaluation import Results, compare
from ood_nc.evaluation.standings import standings
from ood_nc.scores import auroc, fpr_at_tpr
from tests.evaluation.test_compare import run, values


def rows_of(found: list[dict], metric: str) -> dict[str, dict]:
    return {row["run"]: row for row in found if row["metric"] == metric}


def test_values_are_the_headlines_means_with_the_intervals_of_resampled_images() -> None:
    one = run("one")
    found, _ = standings({"one": {0: one}}, replicates=300)
    ids, near, far = (values(one, group, "score/encoder/energy") for group in ("id", "near", "far"))
    for metric, of in (("auroc", auroc), ("fpr95_id_positive", fpr_at_tpr)):
        row = rows_of(found, metric)["one"]
        assert row["value"] == pytest.approx((of(ids, near) + of(ids, far)) / 2)
        assert row["low"] < row["value"] < row["high"] and row["method"] == "energy"
        assert not row["best"] and row["within_noise"] is None, "the one there is stands beside no other"
    error = rows_of(found, "transfer_error")["one"]
    right = values(one, "transfer", "correct/encoder/linear")
    assert error["value"] == pytest.approx(1 - right.mean())
    half = 1.96 * right.std() / np.sqrt(len(right))
    assert error["high"] - error["low"] == pytest.approx(2 * half, rel=0.2)


def test_the_best_and_what_no_difference_from_it_is_shown_of() -> None:
    groups = {"a": run("a", gap=1.5), "same": run("same", gap=1.5, draw=2), "worse": run("worse", gap=0.4, draw=3)}
    found, _ = standings({name: {0: result} for name, result in groups.items()}, replicates=200)
    rows = rows_of(found, "auroc")
    assert sum(row["best"] for row in rows.values()) == 1 and not rows["worse"]["best"]
    assert rows["a"]["within_noise"] and rows["same"]["within_noise"] and not rows["worse"]["within_noise"]


def test_pareto_front_with_what_is_within_noise_of_it() -> None:
    groups = {
        "detects": run("detects", gap=2.0, accuracy=0.5),
        "transfers": run("transfers", gap=1.0, accuracy=0.8),
        "nearly": run("nearly", gap=1.0, accuracy=0.78, draw=2),
        "behind": run("behind", gap=0.2, accuracy=0.4, draw=3),
    }
    _, front = standings({name: {0: result} for name, result in groups.items()}, replicates=200)
    standing = {row["run"]: row["standing"] for row in front}
    assert standing["detects"] == standing["transfers"] == "front" and standing["behind"] == "dominated"
    assert standing["nearly"] != "dominated"
    (behind,) = (row for row in front if row["run"] == "behind")
    assert "transfers" in behind["by"] and behind["transfer_error"] == pytest.approx(0.6, abs=0.1)
    # Against every pair, by definition.
    points = {row["run"]: (row["detection_error"], row["transfer_error"]) for row in front}
    for name, (d, t) in points.items():
        lower = any(x <= d and y <= t and (x, y) != (d, t) for x, y in points.values())
        assert (standing[name] == "front") == (not lower)


def test_seeds_widen_the_interval_and_only_common_images_count() -> None:
    several = {seed: run(f"g-seed{seed}", seed, gap=1.0 + 0.3 * seed, draw=seed) for seed in range(3)}
    found, _ = standings({"g": several, "one": {0: several[0]}}, replicates=200)
    rows = rows_of(found, "fpr95_id_positive")
    assert rows["g"]["seeds"] == 3 and all(0 <= row[end] <= 1 for row in found for end in ("low", "high"))
    assert rows["g"]["high"] - rows["g"]["low"] > 2 * (rows["one"]["high"] - rows["one"]["low"])
    few = run("few")
    few.scores = few.scores.filter([int(name.removesuffix(".png")) < 150 for name in few.scores["id"].to_pylist()])
    short, _ = standings({"few": {0: few}, "all": {0: run("all")}}, replicates=0)
    assert rows_of(short, "auroc")["few"]["value"] == rows_of(short, "auroc")["all"]["value"]
    assert rows_of(short, "auroc")["few"]["low"] is None


def test_any_number_of_runs_is_compared_in_one_document() -> None:
    many: list[Results] = [run(f"r{i}", gap=0.5 + 0.2 * i, draw=i + 1) for i in range(6)]
    document = compare(many, replicates=20)
    assert len(rows_of(document["standings"], "auroc")) == 6 and len(document["pareto"]) == 6
