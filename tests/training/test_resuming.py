"""Runs that end before their time, go on, and are prolonged."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import signal

import pytest
import torch
from PIL import Image

from ood_nc.config import load
from ood_nc.errors import UserError
from ood_nc.sealed import read_sealed, read_sealed_bytes, write_sealed, write_sealed_bytes
from ood_nc.tracking import read_log
from ood_nc.training import load_run, train
from ood_nc.training import loop as loop_module
from tests.helpers.trained import equal, numbers, raise_interrupt, status, weights

EVERYTHING_RANDOM = {
    "augment.reprob": 0.5,
    "augment.color_jitter": 0.4,
    "augment.aa": "rand-m9-mstd0.5",
    "augment.mixup": 0.8,
    "augment.cutmix": 1.0,
    "model.drop": 0.2,
    "model.drop_path": 0.2,
}


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
    train(small(**{"optim.sched": "none", "evaluation.detectors": ["knn"]}), resume=True)
    assert load(directory / "config.yaml").evaluation.detectors == ["knn"], "what ood-nc run --resume measures"
    train(small(**{"optim.sched": "none", "train.epochs": 3}), resume=True)
    straight = train(small("straight", **{"optim.sched": "none", "train.epochs": 3}))
    assert equal(weights(directory), weights(straight)) and numbers(directory) == numbers(straight)
    assert load(directory / "config.yaml").train.epochs == 3


def test_a_run_whose_training_state_is_gone_is_not_begun_anew_over_its_weights(small):
    directory = train(small())
    folder = directory / "checkpoints"
    (folder / "last.state.pt").unlink()
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"last\.state\.pt is gone.*--initial-checkpoint .*best\.safetensors"):
        train(small(**{"train.epochs": 3}), resume=True)
    header, tensors = read_sealed(folder / "best.safetensors")
    (folder / "last.safetensors").unlink()  # the weights that are shared and kept are the best
    header["facts"]["epoch"] = 2
    write_sealed(folder / "best.safetensors", tensors, header)
    with pytest.raises(UserError, match=r"last\.state\.pt is gone"):
        train(small(**{"train.epochs": 3}), resume=True)
    for path in before.keys() - {folder / "last.safetensors", folder / "best.safetensors"}:
        assert path.stat().st_mtime_ns == before[path] or path.name == ".lock"


def test_validation_data_that_has_changed_is_told(small, caplog):
    settings = {"data.val": "bundled/digits-id::test", "data.eval_limit": 20}
    train(small(**settings))
    with caplog.at_level(logging.WARNING):
        train(small(**settings, **{"train.epochs": 3}), resume=True)
        assert "validation data" not in caplog.text
        train(small(**{**settings, "data.eval_limit": 30, "train.epochs": 4}), resume=True)
    assert "The validation data has changed since epoch 3" in caplog.text


def test_a_run_does_not_go_on_with_other_outliers(small, tmp_path):
    """The folder of the same name held other images, which were learnt from as if nothing had changed."""
    folder = tmp_path / "outliers"
    folder.mkdir()
    for shade in (50, 200):
        Image.new("RGB", (32, 32), (shade, 0, 0)).save(folder / f"{shade}.png")
    terms = [{"name": "outlier_exposure", "tap": "encoder", "weight": 0.5}]
    settings = {"data.outliers": str(folder), "loss.terms": terms, "data.limit": 4, "train.epochs": 1}
    train(small(**settings))
    train(small(**{**settings, "train.epochs": 2}), resume=True)
    (folder / "200.png").unlink()
    with pytest.raises(UserError, match="The set of outliers has changed since"):
        train(small(**{**settings, "train.epochs": 3}), resume=True)


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
