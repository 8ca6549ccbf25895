"""The gradient of batches taken together is that of the batch they make: against graphs that are kept, and at once."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from ood_nc.errors import UserError
from ood_nc.training import steps as module
from ood_nc.training import train
from ood_nc.training.launch import accelerator_for
from ood_nc.training.setup import prepare

ENTROPY = {"name": "entropy", "tap": "encoder", "weight": 0.5}
CASES = {
    "terms of the batch, batch statistics, dropout and outliers": {
        "model.name": "test_resnet",
        "model.drop": 0.3,
        "loss.terms": [
            {"name": "within_class", "tap": "projector", "weight": 0.3},
            {"name": "outlier_exposure", "tap": "encoder", "weight": 0.5},
            {**ENTROPY, "tap": "projector"},
        ],
        "data.outliers": "bundled/textures",
    },
    "terms that read heads": {
        "model.projector.kind": "none",
        "loss.task": "none",
        "loss.terms": [
            {"name": "t2fnorm", "tap": "encoder", "weight": 1.0},
            {"name": "deep_supervision", "tap": "blocks.0", "weight": 0.3},
        ],
        "model.taps": ["blocks.0", "encoder"],
        "model.auxiliary": ["blocks.0"],
    },
    "repeated augmentation": {"augment.aug_repeats": 2, "loss.entropy_weight": 0.5},
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_gradient_of_graphs_that_are_kept(small, monkeypatch, case):
    settings = {"train.batch_size": 6, "train.grad_accum_steps": 3, "train.grad_accum_joint": True}
    config = small(**settings, **CASES[case])
    monkeypatch.setattr(module, "_update", lambda setup: None)
    with accelerator_for(config.train) as accelerator:
        setup = prepare(config, accelerator)
        setup.begin(0, 0)
        loaded = next(iter(setup.turns()))
        assert len(loaded) == 3
        before = {name: value.clone() for name, value in setup.model.state_dict().items()}

        batches = [module._place(setup, 0, number, one) for number, one in enumerate(loaded)]
        outputs = [module._forward(setup, batch) for batch in batches]
        whole = module._Output(
            torch.cat([one.logits for one in outputs]),
            {name: torch.cat([one.taps[name] for one in outputs]) for name in outputs[0].taps},
            None if batches[0].outliers is None else torch.cat([one.outliers for one in outputs]),
        )
        groups = None if batches[0].groups is None else torch.cat([batch.groups for batch in batches])
        loss, _ = module._loss(setup, whole, torch.cat([batch.targets for batch in batches]), groups, setup.model.heads)
        loss.backward()
        expected = {name: weight.grad.clone() for name, weight in setup.model.named_parameters()}
        after = {name: value.clone() for name, value in setup.model.state_dict().items()}

        setup.model.load_state_dict(before)
        setup.model.zero_grad()
        turn = module.take_turn(setup, 0, 0, loaded)
    torch.testing.assert_close(turn.loss, loss.detach(), rtol=1e-6, atol=1e-6)
    for name, weight in setup.model.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name], rtol=1e-4, atol=1e-6, msg=name)
    for name, value in setup.model.state_dict().items():  # batch statistics moved once
        torch.testing.assert_close(value, after[name], msg=name)


def test_it_is_the_step_of_the_whole_batch(small):
    """With SGD one step is the gradient; in batches of their own the neighbours are others."""
    settings = {"train.epochs": 1, "data.limit": 8, "optim.opt": "sgd", "optim.lr": 0.1, "loss.entropy_weight": 1.0}
    made = {
        "whole": {"train.batch_size": 30},
        "joint": {"train.batch_size": 10, "train.grad_accum_steps": 3, "train.grad_accum_joint": True},
        "apart": {"train.batch_size": 10, "train.grad_accum_steps": 3},
    }
    weights = {
        name: load_file(train(small(name, **settings, **changes)) / "checkpoints" / "last.safetensors")
        for name, changes in made.items()
    }

    def difference(one, other):
        return max(float((weights[one][n] - value).abs().max()) for n, value in weights[other].items())

    assert difference("whole", "joint") < 1e-6 < 1e-4 < difference("whole", "apart")


def test_batch_norm_on_one_image_is_one_line(small):
    settings = {"model.name": "resnet10t", "train.batch_size": 16, "train.grad_accum_steps": 12, "data.limit": 4}
    with pytest.raises(UserError, match="more than one image a batch"):
        train(small(**settings))
