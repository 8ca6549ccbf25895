from __future__ import annotations

import numpy as np
import pytest

from ood_nc.evaluation import Results, evaluate
from ood_nc.models import ControlledModel
from ood_nc.transfer import PROBES, knn_probe, linear_probe
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


def test_closed_form_and_few_shot_probes_by_name() -> None:
    rng = np.random.default_rng(0)
    labels, tested = np.arange(60) % 3, np.minimum(np.arange(45) % 6, 2)
    centers = rng.normal(size=(3, 4))
    parts = {name: (centers[y] + rng.normal(size=(len(y), 4)), y) for name, y in (("train", labels), ("test", tested))}
    features = {}
    for name, key in (("train", "id_train/tap"), ("test", "id_test/tap")):
        features |= {key: parts[name][0], key.replace("/tap", "/labels"): parts[name][1]}
        features |= {f"transfer/task/{name}/tap": parts[name][0], f"transfer/task/{name}/labels": parts[name][1]}
    probes = ["ridge", "lda", "few_shot_5"]
    found = evaluate(features=features, probes=probes, detectors=["energy"], bootstrap=50)
    task = (*parts["train"], *parts["test"])
    for name in probes:
        wanted = PROBES[name](*(np.asarray(part, np.float32) if part.ndim == 2 else part for part in task), seed=0)
        where = {"kind": "transfer", "dataset": "task", "method": name}
        (row,) = found.select(**where, metric="accuracy")
        assert (row["value"], row["low"], row["high"]) == pytest.approx((wanted.accuracy, wanted.low, wanted.high))
        assert value(found, **where, metric="balanced_error") == pytest.approx(wanted.balanced_error)
        (mean,) = found.select(kind="transfer", dataset="mean", method=name, metric="accuracy")
        assert mean["low"] < mean["value"] < mean["high"]
        (by_class,) = (one for one in found.series["by_class"] if one["method"] == name)
        assert by_class["accuracy"] == pytest.approx({str(c): share for c, share in wanted.per_class.items()}, abs=1e-6)


def test_a_probe_that_returns_anything_costs_its_own_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another package's probe returned was read outside of what catches its errors."""
    monkeypatch.setitem(PROBES._entries, "odd", lambda *_, seed: 0.5)
    rng, labels = np.random.default_rng(0), np.arange(60) % 3
    parts = ("id_train", "id_test", "transfer/task/train", "transfer/task/test")
    arrays = {f"{name}/encoder": rng.normal(size=(60, 4)) for name in parts} | {
        f"{name}/labels": labels for name in parts
    }
    found = evaluate(features=arrays, probes=["odd", "nearest_mean"], detectors=[], bootstrap=0)
    (row,) = found.select(kind="transfer", method="odd")
    assert row["value"] is None and "float" in row["reason"]
    assert value(found, kind="transfer", method="nearest_mean", dataset="task", metric="accuracy") > 0
