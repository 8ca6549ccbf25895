"""The presets for VGG, ResNet and ViT train on a few real digits and measure every layer's input."""

from __future__ import annotations

import pytest
from torch import nn

from ood_nc.cli.command import read_config
from ood_nc.tracking import read_log
from ood_nc.training import load_run, train

SMALL = {
    "data.train": "bundled/digits-id::train",
    "data.test": "bundled/digits-id::test",
    "data.limit": 4,
    "train.epochs": 1,
    "train.workers": 0,
    "train.device": "cpu",
    "intermediate.epochs": [1],
    "intermediate.images": 10,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg13-cifar10", "resnet18-cifar10", "vit-cifar10"])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_a_preset_starts(name, loss, tmp_path):
    settings = {**SMALL, "loss.task": loss, "output": str(tmp_path), "experiment": name}
    config = read_config(f"intermediate/{name}", settings)
    train(config)
    model, _ = load_run(config.run_directory, which="last")
    (line,) = [line for line in read_log(config.run_directory / "metrics.jsonl") if line["split"] == "layers"]
    measured = {key.split("/")[1] for key in line if key.endswith("id_train/within_share")}
    weighted = {key for key, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))}
    assert measured == weighted
    assert all(0 <= line[f"layers/{layer}/id_train/within_share"] <= 1 for layer in measured)
