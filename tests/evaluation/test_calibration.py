from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from ood_nc.evaluation.calibration import calibration_rows
from ood_nc.evaluation.results import make_row
from ood_nc.evaluation.taps import TapData
from ood_nc.scores import calibration_error

BASE = {"run": "a", "seed": 0, "protocol": "strict", "tap": "encoder", "depth": 0, "kind": "accuracy"}


def tap(sizes: dict[str, int], *, labelled: bool = True) -> TapData:
    """Logits three times as large as they should be."""
    generator = torch.Generator().manual_seed(0)
    logits = {key: 6 * torch.randn(n, 4, generator=generator) for key, n in sizes.items()}
    labels = {
        key: torch.multinomial((one / 3).softmax(dim=1), 1, generator=generator)[:, 0] for key, one in logits.items()
    }
    if not labelled:
        labels = {key: torch.full_like(one, -1) for key, one in labels.items()}
    return TapData("encoder", 0, {}, labels, None, "head", logits, None, None)


def found(data: TapData) -> dict[str, dict]:
    return {row["metric"]: row for row in calibration_rows(data, functools.partial(make_row, BASE))}


def test_temperature_is_chosen_on_held_out_id_and_judged_on_the_test() -> None:
    data = tap({"id_test": 3000, "id_val": 2000})
    rows = found(data)

    def loss(temperature: float) -> float:
        return float(
            torch.nn.functional.cross_entropy(data.own_logits["id_val"].double() / temperature, data.labels["id_val"])
        )

    best = minimize_scalar(loss, bounds=(0.1, 20), method="bounded", options={"xatol": 1e-8}).x
    assert rows["temperature"]["value"] == pytest.approx(best, rel=1e-4) and 2.7 < best < 3.3
    assert rows["temperature"]["selected_on"] == rows["ece_at_temperature"]["selected_on"] == "held-out ID"
    assert (rows["temperature"]["n"], rows["ece"]["n"]) == (2000, 3000)
    for name, temperature in (("ece", 1.0), ("ece_at_temperature", best)):
        p, predicted = (data.own_logits["id_test"].double() / temperature).softmax(dim=1).max(dim=1)
        expected = calibration_error(p, np.asarray(predicted == data.labels["id_test"]))
        assert rows[name]["value"] == pytest.approx(expected, abs=1e-3)
    assert rows["ece_at_temperature"]["value"] < 0.3 * rows["ece"]["value"]


def test_without_held_out_id_there_is_no_temperature_and_without_labels_nothing() -> None:
    assert list(found(tap({"id_test": 50}))) == ["ece"]
    assert found(tap({"id_test": 50, "id_val": 50}, labelled=False)) == {}


@pytest.mark.parametrize(("where", "undefined"), [("id_test", {"ece", "ece_at_temperature"}),
                                                  ("id_val", {"temperature", "ece_at_temperature"})])  # fmt: skip
def test_logits_that_are_nan_leave_calibration_undefined_and_the_rest_of_the_evaluation_alone(
    where: str, undefined: set[str]
) -> None:
    data = tap({"id_test": 50, "id_val": 50})
    data.own_logits[where][3, 1] = torch.nan
    rows = found(data)
    assert {name for name, row in rows.items() if row["value"] is None} == undefined
    assert all("NaN" in rows[name]["reason"] for name in undefined)
