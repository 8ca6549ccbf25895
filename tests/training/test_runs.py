"""Loading a run again."""

from __future__ import annotations

import shutil

import pytest
import torch

from ood_nc.errors import UserError
from ood_nc.training import load_run, train
from ood_nc.training.checkpoints import BEST, NEXT, describe, write_weights


@pytest.fixture
def directory(small):
    return train(small(**{"train.checkpoint_interval": 1}))


def test_the_model_comes_back_with_its_classes_and_predictions(directory, small, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the model must be rebuilt from its checkpoint alone")

    monkeypatch.setattr("ood_nc.models.controlled.build_model", refuse)
    model, config = load_run(directory)
    assert config == small(**{"train.checkpoint_interval": 1})
    assert not model.training
    assert model.class_names and len(model.class_names) == model.num_classes
    again, _ = load_run(str(directory), which="best", device="cpu")
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(images), again(images))
    last, _ = load_run(directory, which="last")
    kept, _ = load_run(directory, which="epoch-2")
    first, _ = load_run(directory, which="epoch-1")
    assert torch.equal(last(images), kept(images))
    assert not torch.equal(last(images), first(images))


def test_mistakes_are_one_line(directory, tmp_path):
    (tmp_path / "empty").mkdir()
    (directory / "checkpoints" / NEXT).write_bytes(b"")
    cases = [
        (tmp_path / "nowhere", "best", "There is no run directory"),
        (tmp_path / "empty", "best", "is not a run directory"),
        (directory, "epoch-9", r"no checkpoint 'epoch-9'; it has: best, epoch-1, epoch-2, last\."),
    ]
    for path, which, message in cases:
        with pytest.raises(UserError, match=message) as error:
            load_run(path, which=which)
        assert "\n" not in str(error.value)
    shutil.rmtree(directory / "checkpoints")
    with pytest.raises(UserError, match="it has: none, train it first"):
        load_run(directory)


def test_a_checkpoint_of_another_shape_is_refused(directory):
    model, _ = load_run(directory)
    spec = model.spec()
    model.head = torch.nn.Linear(model.head.in_features, 99)
    write_weights(directory / "checkpoints" / BEST, model.state_dict(), describe(model, {}) | {"spec": spec})
    with pytest.raises(UserError, match=r"does not fit its model: 2 weights differ, among them 'head\.bias'") as error:
        load_run(directory)
    assert "\n" not in str(error.value)
