"""What a user may change about a run, each seen in the run."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from safetensors.torch import load_file
from timm.utils import ModelEmaV3

from ood_nc.errors import UserError
from ood_nc.losses import Objective
from ood_nc.tracking import read_log
from ood_nc.training import load_run, train
from ood_nc.training import loop as loop_module
from tests.helpers.trained import close, equal, numbers, raise_interrupt, status, weights


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
    assert close(load_run(directory, which="last")[0].state_dict(), expected, 1e-6), "what a run on label sets measures"
    (directory / "checkpoints" / "last.state.pt").rename(directory / "state.pt")
    with pytest.raises(UserError, match=r"averaged weights of the last epoch are in .*, which is gone: take best"):
        load_run(directory, which="last")
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
