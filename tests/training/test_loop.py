"""The loop, run for real on a few images."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import signal

import pytest
import torch
from safetensors.torch import load_file
from timm.utils import ModelEmaV3

from ood_nc.collapse import ClassStatistics, measure
from ood_nc.config import load
from ood_nc.errors import UserError
from ood_nc.losses import Objective
from ood_nc.sealed import read_sealed_bytes, write_sealed_bytes
from ood_nc.tracking import read_log, wandb_log
from ood_nc.training import RunDirectory, load_run, train
from ood_nc.training import loop as loop_module
from ood_nc.training import setup as setup_of
from ood_nc.training.measurement import StepAverages

EVERYTHING_RANDOM = {
    "augment.reprob": 0.5,
    "augment.color_jitter": 0.4,
    "augment.aa": "rand-m9-mstd0.5",
    "augment.mixup": 0.8,
    "augment.cutmix": 1.0,
    "model.drop": 0.2,
    "model.drop_path": 0.2,
}


def weights(directory, which="last"):
    return load_file(directory / "checkpoints" / f"{which}.safetensors")


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def close(first, second, tolerance):
    return all(torch.allclose(first[key].double(), second[key].double(), atol=tolerance, rtol=0) for key in first)


def numbers(directory):
    """The log without what a clock decides."""
    lines = read_log(directory / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]


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


def raise_interrupt():
    raise KeyboardInterrupt


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


@pytest.mark.parametrize("model", ["test_vit", "test_resnet"])
def test_interrupted_and_resumed_equals_straight(small, interrupt_at, monkeypatch, model):
    settings = {"model.name": model, "train.epochs": 3, **EVERYTHING_RANDOM}
    straight = train(small("straight", **settings))
    per_epoch = read_log(straight / "metrics.jsonl")[-1]["step"] // 3
    interrupt_at(per_epoch + 2, raise_interrupt)
    with pytest.raises(KeyboardInterrupt, match=r"1 of 3 epochs are finished .*--resume"):
        train(small("stopped", **settings))
    monkeypatch.undo()
    torch.manual_seed(99)
    stopped = train(small("stopped", **settings, **{"train.workers": 2}), resume=True)
    assert equal(weights(straight), weights(stopped))
    assert equal(weights(straight, "best"), weights(stopped, "best"))
    assert numbers(straight) == numbers(stopped)
    keys = [(line["split"], line["step"]) for line in numbers(stopped)]
    assert len(keys) == len(set(keys))
    assert len(json.loads((stopped / "environment.json").read_text())["resumed"]) == 1


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


def test_interrupted_before_any_checkpoint_starts_over(small, interrupt_at, monkeypatch):
    straight = train(small("straight"))
    interrupt_at(1, raise_interrupt)
    with pytest.raises(KeyboardInterrupt, match="0 of 2 epochs"):
        train(small("stopped"))
    monkeypatch.undo()
    stopped = train(small("stopped"), resume=True)
    assert equal(weights(straight), weights(stopped)) and numbers(straight) == numbers(stopped)


def test_sigterm_ends_a_run_as_ctrl_c_does(small, interrupt_at):
    before = signal.getsignal(signal.SIGTERM)
    interrupt_at(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt, match="--resume"):
        train(small())
    assert signal.getsignal(signal.SIGTERM) is before


def test_learning_rates_of_a_resumed_run(small, interrupt_at, monkeypatch):
    settings = {"train.epochs": 10, "optim.lr": 0.1, "optim.opt": "sgd", "data.limit": 4, "train.log_interval": 1000}
    first = train(small(**{**settings, "train.epochs": 10}, experiment="straight"))
    interrupt_at(6, raise_interrupt)  # one step an epoch: the sixth epoch
    with pytest.raises(KeyboardInterrupt, match="5 of 10"):
        train(small(**settings))
    monkeypatch.undo()
    second = train(small(**settings), resume=True)
    for directory in (first, second):
        rates = [line["lr"] for line in read_log(directory / "metrics.jsonl") if line["split"] == "train"]
        assert rates == pytest.approx([0.05 * (1 + math.cos(math.pi * epoch / 10)) for epoch in range(10)])
        assert rates[5:8] == pytest.approx([0.05, 0.034549, 0.020611], abs=1e-6)


def test_a_finished_run_is_left_alone_and_can_be_prolonged(small, caplog):
    directory = train(small(**{"optim.sched": "none"}))
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    with caplog.at_level(logging.WARNING):
        assert train(small(**{"optim.sched": "none"}), resume=True) == directory
    assert "is finished (2 epochs)" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before
    train(small(**{"optim.sched": "none", "train.epochs": 3}), resume=True)
    straight = train(small("straight", **{"optim.sched": "none", "train.epochs": 3}))
    assert equal(weights(directory), weights(straight)) and numbers(directory) == numbers(straight)
    assert load(directory / "config.yaml").train.epochs == 3


def test_a_longer_run_says_what_the_learning_rate_does(small, caplog):
    settings = {"optim.lr": 0.1, "optim.opt": "sgd", "data.limit": 4, "train.epochs": 4}
    directory = train(small(**settings))
    with caplog.at_level(logging.WARNING):
        train(small(**{**settings, "train.epochs": 8}), resume=True)
    assert (
        "4 epochs become 8: the schedule is laid over all 8 anew, so the learning rate goes on at 0.05" in caplog.text
    )
    assert "(it was 0.0146 in epoch 4)" in caplog.text
    rates = [line["lr"] for line in read_log(directory / "metrics.jsonl") if line["split"] == "train"]
    expected = [0.05 * (1 + math.cos(math.pi * epoch / (4 if epoch < 4 else 8))) for epoch in range(8)]
    assert rates == pytest.approx(expected)


def test_a_configuration_that_was_edited_by_hand_changes_no_run(small):
    directory = train(small(**{"train.epochs": 1}))
    text = (directory / "config.yaml").read_text()
    (directory / "config.yaml").write_text(text.replace("lr: 0.001", "lr: 0.009"))
    with pytest.raises(UserError, match=r"optim\.lr was 0\.001 in .* and is 0\.009 now"):
        train(load(directory / "config.yaml", {"train.epochs": 2}), resume=True)


def status(directory):
    return RunDirectory(directory).read_status()


def test_a_run_says_how_it_ended(small, interrupt_at, monkeypatch):
    seen = []
    interrupt_at(3, lambda: seen.append(status(small().run_directory)) or raise_interrupt())
    with pytest.raises(KeyboardInterrupt):
        train(small())
    assert seen[0]["state"] == "running"
    assert status(small().run_directory)["state"] == "interrupted"
    monkeypatch.setattr(loop_module, "validate", lambda *_, **__: {"loss": math.nan, "accuracy": 0.9})
    with pytest.raises(UserError):
        train(small(), resume=True)
    failed = status(small().run_directory)
    assert failed["state"] == "failed" and failed["reason"].startswith("The loss became nan at step")
    assert (failed["epoch"], failed["best_epoch"]) == (0, 0)
    monkeypatch.undo()
    directory = train(small(), resume=True)
    finished = status(directory)
    accuracy = max(line["accuracy"] for line in read_log(directory / "metrics.jsonl") if line["split"] == "val")
    assert (finished["state"], finished["reason"], finished["epoch"]) == ("finished", "", 2)
    assert finished["best_accuracy"] == accuracy
    (directory / "status.json").write_text("{")
    assert status(directory) == {}


def test_a_run_that_is_not_finished_is_said_to_be_when_it_is_read(small, interrupt_at, caplog):
    train(small(**{"train.epochs": 1}))
    interrupt_at(3, raise_interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(small(), resume=True)
    with caplog.at_level(logging.WARNING):
        load_run(small().run_directory)
    assert "has not finished (interrupted): its best checkpoint so far, epoch 1 of 2, is taken" in caplog.text


def test_mistakes_with_the_run_directory_are_one_line(small, tmp_path):
    with pytest.raises(UserError, match=r"no run .* to resume"):
        train(small(), resume=True)
    train(small(**{"train.epochs": 1}))
    with pytest.raises(UserError, match=r"already holds a run: go on with --resume, or choose another --experiment"):
        train(small(**{"train.epochs": 1}))
    with pytest.raises(UserError, match=r"^optim\.lr was 0\.001 in .* and is 0\.5 now"):
        train(small(**{"optim.lr": 0.5}), resume=True)
    with pytest.raises(UserError, match=r"^model\.projector\.kind was 'simplex_etf'"):
        train(small(**{"model.projector.kind": "none"}), resume=True)
    with pytest.raises(UserError, match=r"train data has changed|training data has changed"):
        config = small(**{"train.epochs": 2})
        state = config.run_directory / "checkpoints" / "last.state.pt"
        content = io.BytesIO()
        torch.save({**torch.load(io.BytesIO(read_sealed_bytes(state)), weights_only=True), "data": "other"}, content)
        write_sealed_bytes(state, content.getvalue())
        train(config, resume=True)
    (tmp_path / "runs" / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        train(small("file"))


def test_fewer_epochs_than_before_are_refused(small):
    train(small(**{"train.epochs": 2}))
    with pytest.raises(UserError, match=r"train\.epochs was 2 .* may only grow"):
        train(small(**{"train.epochs": 1}), resume=True)


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


def test_what_is_frozen_stays_and_the_rest_learns(small):
    settings = {"model.name": "test_resnet", "model.freeze": ["backbone.*"], "train.checkpoint_interval": 1}
    folder = train(small(**settings)) / "checkpoints"
    first, second = load_file(folder / "epoch-1.safetensors"), load_file(folder / "epoch-2.safetensors")
    changed = {name.partition(".")[0] for name in first if not torch.equal(first[name], second[name])}
    assert changed == {"head"}, "batch statistics stay too"


@pytest.mark.parametrize("warmup", [False, True])
def test_the_average_of_the_weights_is_what_is_measured_and_kept(small, interrupt_at, monkeypatch, warmup):
    update, history = ModelEmaV3.update, []

    def recorded(self, model, step=None):
        history.append((step, {name: value.clone() for name, value in model.state_dict().items()}))
        update(self, model, step)

    monkeypatch.setattr(ModelEmaV3, "update", recorded)
    settings = {"train.model_ema": True, "train.model_ema_decay": 0.6, "train.model_ema_warmup": warmup}
    settings |= {"train.checkpoint_interval": 1, "optim.lr": 0.01}
    directory = train(small("straight", **settings))
    assert [step for step, _ in history] == [*range(1, len(history) + 1)] and len(history) > 4
    expected = {name: value.double() for name, value in history[0][1].items()}
    for step, raw in history[1:]:
        share = min(1 - (1 + step - 1) ** (-2 / 3), 0.6) if warmup else 0.6
        expected = {name: share * expected[name] + (1 - share) * raw[name].double() for name in raw}
    assert close(weights(directory, "epoch-2"), expected, 1e-6)
    assert equal(weights(directory), history[-1][1]) and not equal(weights(directory), weights(directory, "epoch-2"))
    interrupt_at(len(history) // 2 + 2, raise_interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(small("stopped", **settings))
    stopped = train(small("stopped", **settings), resume=True)
    for which in ("last", "best", "epoch-1", "epoch-2"):
        assert equal(weights(directory, which), weights(stopped, which))


def test_the_best_epoch_by_the_loss_and_the_end_of_patience(small, monkeypatch, caplog):
    losses, accuracies = iter([2.0, 1.0, 1.5, 1.2]), iter([0.1, 0.2, 0.3, 0.4])
    monkeypatch.setattr(loop_module, "validate", lambda *_, **__: {"loss": next(losses), "accuracy": next(accuracies)})
    settings = {"train.eval_metric": "loss", "train.patience": 2, "train.epochs": 9, "data.limit": 5}
    directory = train(small(**settings))
    ended = status(directory)
    assert (ended["state"], ended["epoch"], ended["best_epoch"]) == ("finished", 4, 2)
    assert (ended["best_accuracy"], ended["best_value"]) == (0.2, 1.0)
    assert "No better epoch since epoch 2" in caplog.text
    train(small(**settings), resume=True)
    assert "is finished (4 epochs): nothing to do" in caplog.text


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


@pytest.mark.parametrize("scope", ["global", "device"])
def test_mixup_with_repeated_augmentation(small, scope, monkeypatch):
    groups = []
    forward = Objective.forward

    def spying(self, logits, targets, taps, given=None, **options):
        if taps:
            groups.append(given)
            assert targets.shape == logits.shape
        return forward(self, logits, targets, taps, given, **options)

    monkeypatch.setattr(Objective, "forward", spying)
    settings = {"augment.aug_repeats": 3, "augment.mixup": 0.8, "loss.entropy_scope": scope, "train.epochs": 1}
    directory = train(small(**settings))
    assert all(0 <= line.get("accuracy", 0) <= 1 for line in read_log(directory / "metrics.jsonl"))
    assert all(len(torch.unique(g)) == math.ceil(16 / 3) for g in groups[:1])


def test_bfloat16_autocast_on_the_cpu(small):
    directory = train(small(**{"train.amp": True, "train.amp_dtype": "bfloat16", "train.epochs": 1}))
    plain = train(small("plain", **{"train.epochs": 1}))
    assert {value.dtype for value in weights(directory).values()} == {torch.float32}
    assert not equal(weights(directory), weights(plain))
    first, second = numbers(directory)[0], numbers(plain)[0]
    assert first["loss"] == pytest.approx(second["loss"], rel=0.05) and first["loss"] != second["loss"]


def test_accumulated_batches_equal_the_larger_batch(small):
    settings = {"optim.opt": "sgd", "optim.lr": 0.05, "loss.entropy_weight": 0.0, "train.clip_grad": 0.5}
    settings["train.track_interval"] = 0  # its points are of batches
    large = train(small("large", **settings, **{"train.batch_size": 16}))
    added = train(small("added", **settings, **{"train.batch_size": 8, "train.grad_accum_steps": 2}))
    assert close(weights(large), weights(added), 1e-5)
    for first, second in zip(numbers(large), numbers(added), strict=True):
        assert first == pytest.approx(second, abs=1e-4)
    unclipped = train(small("unclipped", **{**settings, "train.clip_grad": None}))
    assert not close(weights(large), weights(unclipped), 1e-5)


def test_the_best_epoch_is_the_first_with_the_highest_validation_accuracy(small, monkeypatch):
    accuracies = iter([0.5, 0.7, 0.6, 0.7])
    validate = loop_module.validate

    def scripted(*arguments, **options):
        return {**validate(*arguments, **options), "accuracy": next(accuracies)}

    monkeypatch.setattr(loop_module, "validate", scripted)
    directory = train(small(**{"train.epochs": 4, "train.checkpoint_interval": 1}))
    assert equal(weights(directory, "best"), weights(directory, "epoch-2"))
    assert not equal(weights(directory, "best"), weights(directory, "last"))
    assert equal(weights(directory, "last"), weights(directory, "epoch-4"))


def test_channels_last_trains_the_same_model(small):
    settings = {"model.name": "test_resnet", "train.epochs": 1, "optim.opt": "sgd", "optim.lr": 0.01}
    plain = train(small("plain", **settings))
    last = train(small("last", **settings, **{"train.channels_last": True}))
    assert close(weights(plain), weights(last), 1e-4)


def test_start_from_a_checkpoint_with_a_new_head(small, tmp_path, caplog):
    source = train(small("source", **{"train.epochs": 1}))
    path = str(source / "checkpoints" / "best.safetensors")
    with caplog.at_level(logging.WARNING):
        train(
            small("target", **{"model.checkpoint": path, "model.new_head": True, "train.epochs": 1, "optim.lr": 1e-12})
        )
    assert "loaded" in caplog.text and "new: head" in caplog.text
    first, second = weights(source, "best"), weights(tmp_path / "runs" / "target")
    key = next(key for key in first if key.startswith("backbone.") and first[key].ndim > 1)
    assert torch.allclose(first[key], second[key], atol=1e-6)
    assert not torch.allclose(first["head.weight"], second["head.weight"], atol=1e-3)


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


def test_one_process_trains_in_a_directory_at_a_time(small, interrupt_at):
    refusals = []

    def second():
        for resume in (False, True):
            with pytest.raises(UserError, match=f"is being written by process {os.getpid()} on") as error:
                train(small(), resume=resume)
            refusals.append(error.value)

    interrupt_at(2, second)
    directory = train(small())
    straight = train(small("straight"))
    assert len(refusals) == 2
    assert equal(weights(directory), weights(straight)) and numbers(directory) == numbers(straight)
    assert sorted(path.name for path in directory.parent.iterdir()) == ["run", "straight"]


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


def test_the_head_starts_from_xavier_weights_where_asked(small, monkeypatch):
    seen = {}
    prepare = loop_module.prepare

    def spying(*arguments, **options):
        seen["weight"] = prepare(*arguments, **options).model.head.weight.detach().clone()
        raise UserError("seen")

    monkeypatch.setattr(loop_module, "prepare", spying)
    with pytest.raises(UserError, match="seen"):
        train(small(**{"model.head_init": "xavier_uniform"}))
    torch.manual_seed(0)
    bound = math.sqrt(6 / sum(seen["weight"].shape))
    assert 0.9 * bound < float(seen["weight"].abs().max()) <= bound
