"""Device, precision and processes."""

from __future__ import annotations

import os

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState

from ood_nc.config import TrainConfig
from ood_nc.errors import UserError
from ood_nc.training.launch import accelerator_for, ignored_variables


def test_runs_of_different_precision_share_a_process_and_leave_no_trace():
    mine = Accelerator(cpu=True)
    try:
        for amp in (True, False):
            with accelerator_for(TrainConfig(device="cpu", amp=amp, amp_dtype="bfloat16")) as accelerator:
                assert accelerator.mixed_precision == ("bf16" if amp else "no")
                assert accelerator.device.type == "cpu" and accelerator.num_processes == 1
        assert mine.mixed_precision == "no" and mine.device.type == "cpu"
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(ZeroDivisionError), accelerator_for(TrainConfig(device="cpu")):
        raise ZeroDivisionError
    assert PartialState._shared_state == {}


def test_precision_and_device_that_cannot_be():
    with pytest.raises(UserError, match="float16 needs a GPU"), accelerator_for(TrainConfig(device="cpu", amp=True)):
        pass


def test_several_processes_share_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(UserError, match="each process takes its own GPU"),
        accelerator_for(TrainConfig(device="cuda:1")),
    ):
        pass


def test_variables_that_change_a_recipe_are_hidden_and_come_back(monkeypatch):
    given = {"ACCELERATE_MIXED_PRECISION": "bf16", "FSDP_VERSION": "2", "LOCAL_RANK": "3", "WANDB_MODE": "offline"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    assert {"ACCELERATE_MIXED_PRECISION", "FSDP_VERSION", "LOCAL_RANK"} <= set(ignored_variables())
    with pytest.raises(ZeroDivisionError), accelerator_for(TrainConfig(device="cpu")) as accelerator:
        assert not ignored_variables()
        assert os.environ["WANDB_MODE"] == "offline"
        assert accelerator.mixed_precision == "no"
        os.environ["ACCELERATE_USE_FSDP"] = "true"
        raise ZeroDivisionError
    assert dict(os.environ) == before
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "LOCAL_RANK" not in ignored_variables()  # with it the processes find each other


def test_code_that_timm_would_exchange_is_refused(monkeypatch):
    monkeypatch.setenv("TIMM_USE_NAFLEXVIT", "1")
    with pytest.raises(UserError, match=r"TIMM_USE_NAFLEXVIT=1 .*unset it"), accelerator_for(TrainConfig(device="cpu")):
        pass
