from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import numpy as np

from ood_nc.evaluation.measurement_plan import Plan, Resamples


def plan(**given: Any) -> Plan:
    return Plan(**{**dict.fromkeys(field.name for field in fields(Plan)), **given})


def test_resamples_of_a_set_are_drawn_once_and_those_of_another_apart() -> None:
    resamples = Resamples(replicates=5, seed=3)
    one = resamples.of("ood/a", 20)
    assert resamples.of("ood/a", 20) is one
    again, other = Resamples(5, 3).of("ood/a", 20), resamples.of("ood/b", 20)
    assert np.array_equal(one.before, again.before) and not np.array_equal(one.before, other.before)


def test_a_row_stands_at_its_tap_with_its_depth_and_at_no_depth_where_the_model_has_no_such_tap() -> None:
    model = SimpleNamespace(tap_info={"encoder": SimpleNamespace(depth=4)})
    base = {"run": "a", "seed": 1, "protocol": "strict"}
    made = plan(model=model, base=base).of("detection", "encoder")(metric="auroc", value=0.5)
    assert (made["run"], made["kind"], made["tap"], made["depth"]) == ("a", "detection", "encoder", 4)
    assert plan(model=model, base=base).of("accuracy", "network")(metric="ece", value=0.5)["depth"] is None


def test_ids_are_those_of_the_banks() -> None:
    banks: Any = {"id_test": SimpleNamespace(ids=("a", "b"))}
    assert plan(banks=banks).ids == {"id_test": ("a", "b")}
