from __future__ import annotations

import numpy as np
import pytest

from ood_nc.evaluation import Results
from ood_nc.models import ControlledModel
from ood_nc.transfer import knn_probe, linear_probe
from tests.helpers.tiny import arguments, bank, column, value

TAPS = ["layer2", "encoder", "projector"]


def test_transfer_probes_are_those_of_the_transfer_room(evaluated: Results, model: ControlledModel) -> None:
    train, test = (bank(model, found) for found in arguments()["transfer"]["more digits"])
    parts = (train.taps["encoder"], train.labels, test.taps["encoder"], test.labels)
    for name, wanted in (("linear", linear_probe(*parts, seed=0)), ("knn", knn_probe(*parts))):
        (row,) = evaluated.select(kind="transfer", tap="encoder", dataset="more digits", method=name, metric="accuracy")
        assert row["value"] == pytest.approx(wanted.accuracy, abs=0.021) and row["n"] == len(test)
        assert row["selected_on"] == wanted.selected_on
        right = column(evaluated, "transfer", "more digits", f"correct/encoder/{name}")
        assert right.mean() == pytest.approx(row["value"])


def test_id_accuracy_of_the_head_and_of_every_probe(evaluated: Results, model: ControlledModel) -> None:
    found = evaluated.select(kind="accuracy", metric="accuracy")
    assert [(row["tap"], row["method"]) for row in found] == [*((tap, "linear") for tap in TAPS), ("projector", "head")]
    test = bank(model, arguments()["id"])
    wanted = (test.logits.argmax(1) == test.labels).double().mean()
    assert found[-1]["value"] == pytest.approx(float(wanted)) and found[-1]["low"] < found[-1]["value"]
    assert column(evaluated, "id", "id_test", "correct/projector/head").mean() == pytest.approx(float(wanted))


def test_the_tunnel_effect_stands_at_the_last_tap(evaluated: Results) -> None:
    curve = [
        value(evaluated, kind="transfer", tap=tap, dataset="more digits", method="linear", metric="accuracy")
        for tap in TAPS
    ]
    ids = [value(evaluated, kind="accuracy", tap=tap, method="linear", metric="accuracy") for tap in TAPS]
    assert value(evaluated, metric="retained", tap="projector") == pytest.approx(100 * curve[-1] / max(curve))
    assert value(evaluated, metric="id_correlation") == pytest.approx(np.corrcoef(ids, curve)[0, 1])
    classes = arguments()["transfer"]["more digits"][0].num_classes
    aligned = (ids[1] - 1 / 5) * (curve[1] - 1 / classes)
    assert value(evaluated, metric="id_alignment", tap="encoder") == pytest.approx(aligned)
