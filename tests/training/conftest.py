"""A run small enough to train in a second: a tiny timm model on a few of the bundled digits."""

from __future__ import annotations

import pytest

from ood_nc.config import load
from ood_nc.training.measurement import StepAverages

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


@pytest.fixture
def interrupt_at(monkeypatch):
    """Let something happen in the middle of a step of an epoch, once."""

    def install(batch, action):
        seen = {"batches": 0}
        add = StepAverages.add

        def counting(self, *arguments):
            add(self, *arguments)
            seen["batches"] += 1
            if seen["batches"] == batch:
                action()

        monkeypatch.setattr(StepAverages, "add", counting)

    return install
