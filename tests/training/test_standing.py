"""Where a run is, kept and restored within an epoch."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from ood_nc.tracking import read_log
from ood_nc.training import train
from ood_nc.training.measurement import StepAverages
from ood_nc.training.setup import Setup

RANDOM = {"augment.reprob": 0.5, "augment.mixup": 0.8, "augment.cutmix": 1.0, "model.drop": 0.2, "model.drop_path": 0.2}


def numbers(directory):
    """The log without what a clock decides."""
    lines = read_log(directory / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]


def signal_at(monkeypatch, batch, *numbers_of_signals):
    add, seen = StepAverages.add, []

    def counting(self, *arguments):
        seen.append(1)
        if len(seen) == batch:
            for number in numbers_of_signals:
                os.kill(os.getpid(), number)
        add(self, *arguments)

    monkeypatch.setattr(StepAverages, "add", counting)
    return seen


def test_after_sigterm_a_run_goes_on_at_the_next_step(small, monkeypatch):
    settings = {**RANDOM, "train.batch_size": 8, "train.grad_accum_steps": 2, "train.track_interval": 3}
    straight = train(small("straight", **settings))
    seen = signal_at(monkeypatch, 13, signal.SIGTERM)  # the first batch of the second step of the second epoch
    with pytest.raises(KeyboardInterrupt, match=r"1 of 2 epochs and 2 steps are finished and kept .*--resume"):
        train(small("stopped", **settings))
    assert len(seen) == 14  # the step was ended
    state = torch.load(small("stopped").run_directory / "checkpoints" / "last.state.pt", weights_only=False)
    assert (state["epoch"], state["step"]) == (1, 7)
    torch.manual_seed(99)
    stopped = train(small("stopped", **settings, **{"train.workers": 2}), resume=True)
    assert len(seen) == 20
    first, second = (load_file(folder / "checkpoints" / "last.safetensors") for folder in (straight, stopped))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert numbers(straight) == numbers(stopped)
    tracked = [line["step"] for line in numbers(stopped) if line["split"] == "tracked"]
    assert tracked == [2, 3, 5, 7, 8, 10]  # the steps that batches 3, 6 and 9 of each epoch belong to


def test_a_second_sigterm_does_not_wait(small, monkeypatch):
    signal_at(monkeypatch, 2, signal.SIGTERM, signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="0 of 2 epochs are finished"):
        train(small())


def test_a_sigterm_in_the_last_validation_ends_a_finished_run(small, monkeypatch):
    signal_at(monkeypatch, 10, signal.SIGTERM)
    assert train(small()).exists()


def test_a_spoiled_checkpoint_takes_no_sound_ones_place(small, monkeypatch):
    settings = {"train.recovery_interval": 1, "train.log_interval": 1000, "optim.opt": "sgd"}
    add, seen = StepAverages.add, []

    def spoiling(self, loss, *arguments):
        seen.append(1)
        add(self, loss, *arguments)
        if len(seen) == 3:
            with torch.no_grad():
                next(held[0].model.parameters()).fill_(torch.nan)

    held, begin = [], Setup.begin
    monkeypatch.setattr(Setup, "begin", lambda self, *place: (held.append(self), begin(self, *place)))

    monkeypatch.setattr(StepAverages, "add", spoiling)
    with pytest.raises(ValueError, match="became nan at step 4"):
        train(small(**settings))
    state = torch.load(small().run_directory / "checkpoints" / "last.state.pt", weights_only=False)
    assert state["step"] == 2
