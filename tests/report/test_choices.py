from __future__ import annotations

from typing import Any

import pytest

from ood_nc.report.choices import BLIND, choice_table, regret_table


def choice(rule: str, regret: float | None, **more: Any) -> dict[str, Any]:
    given = {"task": "detection", "rule": rule, "text": rule, "recommended": False, "metric": "fpr95_id_positive"}
    given |= {"best_tap": "encoder", "best_method": "vim", "value_best": 0.1, "value_mean": 0.5, "reason": None}
    return {**given, "chosen_tap": "stem", "method": "knn", "value_chosen": 0.2, "regret": regret, **more}


def test_hand_computed_regrets_over_runs() -> None:
    runs = [[choice("headline", 0.3), choice("made", 0.0)], [choice("headline", 0.1), choice("made", 0.1)]]
    runs.append([choice("made", None), choice("headline", 0.2, value_mean=0.9)])
    found = {line["rule"]: (line["runs"], line["mean"], line["worst"]) for line in regret_table(runs)}
    assert list(found) == ["made", "headline", BLIND], "the least mean first"
    assert found["made"] == (2, pytest.approx(0.05), 0.1)
    assert found["headline"] == (3, pytest.approx(0.2), 0.3)
    assert found[BLIND] == (3, pytest.approx((0.4 + 0.4 + 0.8) / 3), pytest.approx(0.8))


def test_choices_of_an_earlier_version_are_passed_over() -> None:
    old = {"task": "detection", "method": "knn", "rule": "lowest nc1_pinv on ID train", "regret": 0.1}
    assert choice_table([old]) == [] and regret_table([[old], [old]]) == []
