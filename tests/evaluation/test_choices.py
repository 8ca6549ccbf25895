from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ood_nc.evaluation import evaluate
from ood_nc.evaluation.choices import make_choices
from ood_nc.evaluation.rules import RULES
from ood_nc.models import ControlledModel
from tests.evaluation.test_rules import evidence
from tests.helpers.rows import detection_row, transfer_row
from tests.helpers.tiny import arguments, part

FPR = {"stem": (0.9, 0.8), "layer1": (0.7, 0.6), "encoder": (0.4, 0.2), "projector": (0.5, 0.3)}
ACCURACY = {"stem": 0.8, "layer1": 0.7, "encoder": 0.75, "projector": 0.5}


def table(fpr: dict[str, tuple[float, ...]] | None = None, accuracy: dict[str, float] | None = None) -> list[dict]:
    where = (fpr or FPR).items()
    rows = [detection_row(tap, f"set{i}", value, method="knn") for tap, found in where for i, value in enumerate(found)]
    return rows + [transfer_row(tap, "birds", value) for tap, value in (accuracy or ACCURACY).items()]


def by_rule(rows: list[dict], task: str, **changes: Any) -> dict[str, dict]:
    return {one["rule"]: one for one in make_choices(rows, evidence(**changes)) if one["task"] == task}


def test_hand_computed_regret() -> None:
    found = by_rule(table(), "detection")
    assert list(found) == list(RULES["detection"])
    one = found["nc1_train"]
    assert (one["chosen_tap"], one["best_tap"], one["best_method"]) == ("projector", "encoder", "knn")
    assert (one["value_chosen"], one["value_best"]) == (pytest.approx(0.4), pytest.approx(0.3))
    assert one["regret"] == pytest.approx(0.1) and one["value_mean"] == pytest.approx((0.85 + 0.65 + 0.3 + 0.4) / 4)
    assert found["nc1_held_out"]["regret"] == 0
    transfer = by_rule(table(), "transfer")["nc1_train"]
    assert (transfer["chosen_tap"], transfer["best_tap"]) == ("layer1", "stem")
    assert transfer["regret"] == pytest.approx(0.1) and "90%" in transfer["text"]


def test_one_rule_a_task_is_recommended_whatever_the_tests_say() -> None:
    for rows in (table(), table(fpr={tap: (1.0 - a, 1.0 - b) for tap, (a, b) in FPR.items()})):
        chosen = [(one["task"], one["rule"]) for one in make_choices(rows, evidence()) if one["recommended"]]
        assert chosen == [("detection", "made_images"), ("transfer", "nc1_train")]
    lacking = make_choices(table(), evidence(scores={}))
    assert [one["rule"] for one in lacking if one["recommended"]] == ["headline", "nc1_train"]


def test_without_any_set_to_judge_by_something_is_recommended_all_the_same() -> None:
    found = by_rule([], "detection")
    assert found["made_images"]["recommended"] and found["made_images"]["chosen_tap"] == "layer1"
    assert found["made_images"]["regret"] is None and "no set" in found["made_images"]["reason"]


def test_what_is_undefined_where_it_is_chosen_has_a_reason_instead_of_a_regret() -> None:
    rows = [*table({"encoder": (0.4,)}), detection_row("projector", "set0", None, method="knn", reason="signed")]
    one = by_rule(rows, "detection")["nc1_train"]
    assert one["regret"] is None and "projector" in one["reason"] and one["best_tap"] == "encoder"


def test_a_tap_that_misses_a_set_is_not_compared() -> None:
    assert by_rule(table({"layer1": (0.1,), "encoder": (0.4, 0.2)}), "detection")["headline"]["best_tap"] == "encoder"


def test_taps_that_miss_different_sets_are_not_compared() -> None:
    rows = table({"layer1": (0.1, 0.1), "encoder": (0.4, 0.2), "projector": (0.5, 0.3)})
    rows[0]["dataset"] = "easy"
    one = by_rule(rows, "detection")["headline"]
    assert (one["best_tap"], one["value_mean"]) == ("encoder", pytest.approx(0.35)), "two taps have the same sets"


def test_means_overlaps_and_ensembles_are_no_candidates() -> None:
    more = [detection_row("projector", "mean", 0.0, method="knn"), detection_row("stem", "set0", 0.0, method="odin")]
    more.append(detection_row("projector", "set0 (disjoint)", 0.0, method="knn"))
    more.append(detection_row("projector", "set0", 0.0, method="fisher(knn over taps)"))
    assert make_choices(table() + more, evidence()) == make_choices(table(), evidence())


def test_evaluate_follows_every_rule_where_id_is_held_out(tiny: Callable[..., ControlledModel]) -> None:
    given = {**arguments(), "id_val": part("bundled/digits-id::test", 90).subset(range(60, 90)), "bootstrap": 0}
    found = evaluate(tiny(), **given, detectors=["energy", "knn", "mahalanobis"])
    assert all(one["chosen_tap"] in ("layer2", "encoder", "projector") for one in found.choices)
    assert [one["rule"] for one in found.choices if one["recommended"]] == ["made_images", "nc1_train"]
    assert all(one["regret"] >= 0 for one in found.choices)
    # What was made for choosing is in no table.
    assert set(found.scores["dataset"].to_pylist()) == {"id_test", "digits", "textures", "more digits"}
    assert not any("made" in str(row["dataset"]) or row["dataset"] == "id_val" for row in found.rows)
