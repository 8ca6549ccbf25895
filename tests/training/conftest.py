"""A run small enough to train in a second: a tiny timm model on a few of the bundled digits."""

from __future__ import annotations

import pytest

from ood_nc.config import load

SMALL = {
    "model.name": "test_vit",
    "model.img_size": 32,
    "model.taps": ["encoder", "projector"],
    "data.limit": 20,
    "data.test": None,
    "augment.scale": [0.6, 1.0],
    "train.epochs": 2,
    "train.batch_size": 16,
    "train.workers": 0,
    "train.device": "cpu",
    "train.log_interval": 2,
}


@pytest.fixture
def small(tmp_path):
    """Makes a configuration: ``small("name", **{"train.epochs": 3})``; runs go into the test's own folder."""

    def make(experiment="run", **overrides):
        return load(None, {**SMALL, "output": str(tmp_path / "runs"), "experiment": experiment, **overrides})

    return make
