"""Every layer's input, measured while a network trains and at its end."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader

from ood_nc.config import IntermediateConfig
from ood_nc.data import eval_transform, load_data
from ood_nc.evaluation import Results, add_layer_inputs
from ood_nc.intermediate import low_rank_accuracy, measure_layers
from ood_nc.tracking import read_log
from ood_nc.training import load_run, train

MLP = {
    "model.name": "mlp10",
    "model.img_size": 16,
    "model.in_chans": 1,
    "model.kwargs": {"depth": 3, "width": 24, "tied_from": 2},
    "model.taps": ["encoder"],
    "model.projector.kind": "none",
    "loss.entropy_weight": 0.0,
    "loss.task": "mse",
    "data.test": "bundled/digits-id::test",
    "train.epochs": 3,
}


def test_it_is_followed_at_the_chosen_epochs_and_changes_no_weight(small):
    plain = small("plain", **MLP)
    followed = small("followed", **MLP, **{"intermediate.epochs": [1], "intermediate.images": 60})
    train(plain)
    train(followed)
    weights = [load_run(config.run_directory, which="last")[0].state_dict() for config in (plain, followed)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    lines = [line for line in read_log(followed.run_directory / "metrics.jsonl") if line["split"] == "layers"]
    assert [line["epoch"] for line in lines] == [1, 3]
    names = {key.split("/")[1] for key in lines[0] if key.endswith("id_train/cdnv")}
    layers = ["backbone.layer1.linear", "backbone.layer2.linear", "backbone.layer2.linear#2", "head"]
    assert sorted(names) == sorted(layers)
    assert "layers/head/id_val/ncc_accuracy" in lines[0]


def test_the_rows_at_the_end_are_the_measurement(small):
    config = small("run", **MLP)
    train(config)
    model, _ = load_run(config.run_directory, which="last")
    data = load_data(config.data, seed=0)
    sets = [part.with_transform(eval_transform(model.preprocessing)) for part in (data.id_train, data.id_test)]
    results = Results(rows=[], identity={"run": "run", "seed": 0})
    add_layer_inputs(results, model, *sets, IntermediateConfig(), batch_size=64, device="cpu")
    batches = [DataLoader(part, batch_size=32) for part in sets]
    reports = measure_layers(model, batches[0], {"id_test": batches[1]}, num_classes=model.num_classes)
    found = {(row["tap"], row["metric"], row["dataset"]): row["value"] for row in results.select(kind="layer")}
    for report in reports:
        for metric, dataset, value in report.metrics():
            assert abs(found[report.layer.name, metric, dataset] - value) < 1e-6 * max(1, abs(value))
    memory = low_rank_accuracy(model, [one.layer for one in reports[1:]], batches[1], rank=model.num_classes)
    assert found["backbone.layer2.linear", "accuracy_rank_c_onward", "id_test"] == memory
    assert ("network", "effective_depth", "id_train") in found
    sizes = {(row["dataset"], row["n"]) for row in results.select(kind="layer")}
    assert sizes == {("id_train", len(sets[0])), ("id_test", len(sets[1]))}
