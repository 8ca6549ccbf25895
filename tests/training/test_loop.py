"""The loop, run for real on a few images."""

from __future__ import annotations

import json
import math
import os

import pytest
import torch

from ood_nc.collapse import ClassStatistics, measure
from ood_nc.config import load
from ood_nc.errors import UserError
from ood_nc.losses import Objective
from ood_nc.tracking import read_log, wandb_log
from ood_nc.training import load_run, train
from ood_nc.training import loop as loop_module
from ood_nc.training import setup as setup_of
from ood_nc.training.measurement import StepAverages
from tests.helpers.trained import equal, numbers, weights


def test_a_run_directory_holds_what_the_contract_says(small):
    config = small(**{"train.collapse_interval": 2, "train.checkpoint_interval": 2})
    directory = train(config)
    assert directory == config.run_directory
    assert load(directory / "config.yaml") == config
    environment = json.loads((directory / "environment.json").read_text())
    assert environment["seed"] == 0 and environment["device"] == "cpu" and environment["processes"] == 1
    assert environment["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert {"faiss-cpu", "faiss-gpu"} & environment["versions"].keys()
    assert sorted(path.name for path in (directory / "checkpoints").iterdir()) == [
        "best.safetensors",
        "epoch-2.safetensors",
        "last.safetensors",
        "last.state.pt",
    ]
    lines = read_log(directory / "metrics.jsonl")
    steps_per_epoch = lines[-1]["step"] // 2
    assert [line["step"] for line in lines if line["split"] == "val"] == [steps_per_epoch, 2 * steps_per_epoch]
    trained = [line for line in lines if line["split"] == "train"]
    assert {line["step"] for line in trained} == {
        step for step in range(1, 2 * steps_per_epoch + 1) if step % 2 == 0 or step % steps_per_epoch == 0
    }
    assert trained[0].keys() == {
        "step", "epoch", "split", "loss", "task", "entropy/encoder", "accuracy", "images_per_second", "lr",
    }  # fmt: skip
    for line in trained:
        assert line["loss"] == pytest.approx(line["task"] + 0.05 * line["entropy/encoder"], abs=1e-5)
        assert line["epoch"] == line["step"] / steps_per_epoch
    (collapse,) = [line for line in lines if line["split"] == "collapse"]
    assert collapse["step"] == 2 * steps_per_epoch
    assert {name.split("/")[1] for name in collapse if name.startswith("collapse/")} == {"encoder", "projector"}
    assert "collapse/projector/nc1_pinv" in collapse


def test_the_environment_of_the_process_is_not_written_down(small, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "a-secret-value")
    directory = train(small(**{"train.epochs": 1}))
    for path in directory.rglob("*"):
        assert path.is_dir() or b"a-secret-value" not in path.read_bytes()


@pytest.mark.parametrize("construction", ["paper", "orthonormal"])
def test_the_frozen_projector_moves_by_no_bit(small, construction, monkeypatch):
    seen = {}
    prepare = loop_module.prepare

    def spying(*arguments, **options):
        setup = prepare(*arguments, **options)
        seen["setup"] = setup
        seen["before"] = {name: value.clone() for name, value in setup.model.state_dict().items()}
        return setup

    monkeypatch.setattr(loop_module, "prepare", spying)
    settings = {"model.projector.construction": construction, "optim.weight_decay": 0.5, "optim.lr": 0.01}
    train(small(**{"train.epochs": 1, "optim.weight_decay_exclude_1d": False, **settings}))
    model = seen["setup"].model
    frozen = [name for name in seen["before"] if name.startswith("projector.")]
    assert frozen
    for name, value in model.state_dict().items():
        assert torch.equal(value, seen["before"][name]) == (name in frozen), name
    trained = {id(p) for group in seen["setup"].optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in model.parameters()}
    assert not trained & {id(buffer) for buffer in model.buffers()}


def test_every_epoch_has_an_order_of_its_own(small, monkeypatch):
    shown = []
    groups = setup_of.Setup.groups

    def spying(self, indices):
        shown.extend(indices.tolist())
        return groups(self, indices)

    monkeypatch.setattr(setup_of.Setup, "groups", spying)
    train(small())
    half = len(shown) // 2
    assert len(set(shown[:half])) == len(set(shown[half:])) == half
    assert shown[:half] != shown[half:]


def test_a_mistake_in_the_data_leaves_no_run_behind(small):
    with pytest.raises(UserError):
        train(small(**{"data.train": "nowhere/at/all"}))
    with pytest.raises(UserError, match=r"model\.num_classes is 99"):
        train(small(**{"model.num_classes": 99}))
    with pytest.raises(UserError, match=r"loss\.entropy_weight names 'encodr'.*Did you mean 'encoder'"):
        train(small(**{"loss.entropy_weight": {"encodr": 0.1}}))
    with pytest.raises(UserError, match=r"optim\.opt is 'adamv'"):
        train(small(**{"optim.opt": "adamv"}))
    assert not small().run_directory.exists()


def test_a_loss_that_is_not_finite_names_its_step_and_keeps_the_checkpoint(small, monkeypatch):
    train(small(**{"train.epochs": 1}))
    before = weights(small().run_directory)
    forward = Objective.forward
    calls = {"n": 0}

    def poisoned(self, *arguments, **options):
        loss, parts = forward(self, *arguments, **options)
        calls["n"] += self.training and bool(self.terms)
        return (loss * math.nan if calls["n"] == 3 else loss), parts

    monkeypatch.setattr(Objective, "forward", poisoned)
    per_epoch = read_log(small().run_directory / "metrics.jsonl")[-1]["step"]
    with pytest.raises(UserError, match=rf"became nan at step {per_epoch + 3};") as error:
        train(small(**{"train.log_interval": 50}), resume=True)
    assert "\n" not in str(error.value)
    assert equal(weights(small().run_directory), before)


def test_weights_that_the_last_step_spoiled_are_not_kept(small, monkeypatch):
    def spoiled(model, *_, **__):
        return {"loss": math.nan, "accuracy": 0.9}

    train(small(**{"train.epochs": 1}))
    before = weights(small().run_directory)
    monkeypatch.setattr(loop_module, "validate", spoiled)
    with pytest.raises(UserError, match="became nan"):
        train(small(), resume=True)
    monkeypatch.undo()
    assert equal(weights(small().run_directory), before) and equal(weights(small().run_directory, "best"), before)
    assert train(small(), resume=True)


def test_a_full_disk_keeps_the_checkpoint_before(small, monkeypatch):
    straight = train(small("straight"))
    fsync, calls = os.fsync, {"n": 0}

    def full(descriptor):
        calls["n"] += 1
        if calls["n"] > 7:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on the disk"):
        train(small())
    monkeypatch.undo()
    directory = small().run_directory
    assert not [path for path in (directory / "checkpoints").iterdir() if path.name.startswith(".")]
    load_run(directory)
    train(small(), resume=True)
    assert equal(weights(directory), weights(straight))


def test_trackers_get_the_lines_of_the_log_and_the_configuration_nested(small, monkeypatch):
    made = []

    class Recorder:
        def __init__(self, directory, config):
            self.config, self.lines, self.summary = config, [], None
            made.append(self)

        def log(self, values, step):
            self.lines.append({"step": step, **values})

        def finish(self, summary):
            self.summary = summary

    monkeypatch.setattr(wandb_log, "WandbLog", Recorder)
    config = small(**{"tracking.log_wandb": True, "tracking.wandb_tags": ["a"], "train.epochs": 1})
    given = Recorder("", {})
    directory = train(config, trackers=[given])
    tracker = made[-1]
    assert (tracker is not given, tracker.lines, tracker.summary) == (True, given.lines, given.summary)
    assert tracker.lines == read_log(directory / "metrics.jsonl")
    assert tracker.config == config.model_dump(mode="json") and tracker.config["tracking"]["wandb_tags"] == ["a"]
    assert tracker.summary["best_epoch"] == 1 and tracker.summary["state"] == "finished"


def test_the_tracked_curve_of_every_tap_is_that_of_the_batches(small, monkeypatch):
    seen = []
    add = StepAverages.add

    def remembering(self, loss, parts, logits, targets, taps):
        add(self, loss, parts, logits, targets, taps)
        seen.append(targets)

    taps = []
    module = setup_of.ControlledModel.forward

    def watching(self, images, **options):
        output = module(self, images, **options)
        if self.training and options.get("taps"):
            taps.append({name: value.detach().clone() for name, value in output[1].items()})
        return output

    monkeypatch.setattr(StepAverages, "add", remembering)
    monkeypatch.setattr(setup_of.ControlledModel, "forward", watching)
    directory = train(small(**{"train.track_interval": 3, "train.epochs": 2}))
    lines = [line for line in read_log(directory / "metrics.jsonl") if line["split"] == "tracked"]
    per_epoch = len(seen) // 2
    due = [epoch * per_epoch + step for epoch in range(2) for step in range(3, per_epoch + 1, 3)]
    assert [line["step"] for line in lines] == due
    for line in lines:
        batch = taps[line["step"] - 1]
        for tap in ("encoder", "projector"):
            stats = ClassStatistics(5, batch[tap].shape[1]).update(batch[tap], seen[line["step"] - 1])
            assert line[f"collapse/{tap}/nc1_ratio"] == pytest.approx(measure(stats).nc1_ratio, rel=1e-6)
            assert f"collapse/{tap}/nc2_angle" in line


def test_no_tracking(small):
    directory = train(small(**{"train.track_interval": 0, "train.epochs": 1}))
    assert not [line for line in read_log(directory / "metrics.jsonl") if line["split"] == "tracked"]


LEFT_OVER = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR",
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_SHARDING_STRATEGY": "FULL_SHARD",
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_GRADIENT_CLIPPING": "0.001",
    "ACCELERATE_USE_MEGATRON_LM": "true",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "true",
    "PARALLELISM_CONFIG_DP_SHARD_SIZE": "2",
    "ACCELERATE_TORCH_DEVICE": "meta",
    "LOCAL_RANK": "1",
    "RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "4",
}


def test_the_configuration_decides_whatever_the_environment_holds(small, monkeypatch):
    plain = train(small("plain"))
    for name, value in LEFT_OVER.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    surrounded = train(small("surrounded"))
    assert equal(weights(plain), weights(surrounded)) and numbers(plain) == numbers(surrounded)
    environment = json.loads((surrounded / "environment.json").read_text())
    assert set(LEFT_OVER) <= set(environment["ignored_variables"])
    assert environment["variables"]["OMP_NUM_THREADS"] == "1" and environment["threads"] == torch.get_num_threads()


@pytest.mark.parametrize("name", sorted(LEFT_OVER))
@pytest.mark.slow
def test_each_variable_alone_changes_no_bit(small, monkeypatch, name):
    plain = train(small("plain", **{"train.epochs": 1}))
    monkeypatch.setenv(name, LEFT_OVER[name])
    assert equal(weights(plain), weights(train(small("surrounded", **{"train.epochs": 1}))))
