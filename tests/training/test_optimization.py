"""Optimisers, schedules and mixup."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from timm.optim import list_optimizers, param_groups_layer_decay
from torch import nn

from ood_nc.config import AugmentConfig, OptimConfig
from ood_nc.errors import UserError
from ood_nc.models import ControlledModel
from ood_nc.training.optimization import create_mixup, create_optimizer, create_schedule


def model():
    net = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    net.register_buffer("frozen", torch.ones(3, 3))
    return net


def test_weight_decay_leaves_out_one_dimensional_parameters_and_buffers():
    net = model()
    optimizer = create_optimizer(net, OptimConfig(weight_decay=0.05), global_batch=8)
    decayed = [p for group in optimizer.param_groups if group["weight_decay"] == 0.05 for p in group["params"]]
    free = [p for group in optimizer.param_groups if group["weight_decay"] == 0 for p in group["params"]]
    assert {id(p) for p in decayed} == {id(net[0].weight), id(net[2].weight)}
    assert len(free) == 4
    everything = create_optimizer(net, OptimConfig(weight_decay_exclude_1d=False), global_batch=8)
    assert [group["weight_decay"] for group in everything.param_groups] == [0.05]
    assert len(everything.param_groups[0]["params"]) == 6


def test_learning_rate_scales_with_the_global_batch_when_asked():
    settings = {"lr": 8e-4, "lr_base_size": 512}
    assert create_optimizer(model(), OptimConfig(**settings), global_batch=1024).param_groups[0]["lr"] == 1.6e-3
    assert create_optimizer(model(), OptimConfig(lr=8e-4), global_batch=1024).param_groups[0]["lr"] == 8e-4


def test_optimiser_by_name_with_its_arguments():
    optimizer = create_optimizer(
        model(), OptimConfig(opt="sgd", momentum=0.8, opt_kwargs={"nesterov": False}), global_batch=1
    )
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.param_groups[0]["momentum"] == 0.8 and optimizer.param_groups[0]["nesterov"] is False


@pytest.mark.parametrize("sched", ["none", "cosine"])
def test_layer_decay_gives_each_layer_the_rate_that_timm_gives_it(sched):
    ours = ControlledModel("test_vit", num_classes=5, projector=None, img_size=32)
    theirs = timm.create_model("test_vit", num_classes=5, img_size=32)
    names = {id(weight): name for name, weight in theirs.named_parameters()}
    groups = param_groups_layer_decay(theirs, layer_decay=0.5)
    expected = {names[id(weight)]: 0.1 * group["lr_scale"] for group in groups for weight in group["params"]}
    optim = OptimConfig(lr=0.1, layer_decay=0.5, sched=sched)
    optimizer = create_optimizer(ours, optim, global_batch=1)
    schedule = create_schedule(optimizer, optim, epochs=9, steps_per_epoch=1)
    if schedule is not None:
        schedule.step(0)
    ours_by_id = {id(weight): name.removeprefix("backbone.") for name, weight in ours.named_parameters()}
    found = {ours_by_id[id(weight)]: group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    blocks = {name: rate for name, rate in expected.items() if not name.startswith("head")}
    assert {name: found[name] for name in blocks} == pytest.approx(blocks)
    assert {rate for name, rate in found.items() if name not in blocks} == {0.1}
    assert len(set(found.values())) == len(set(expected.values())) > 3


def test_layer_decay_needs_layers():
    with pytest.raises(UserError, match="needs a model whose layers timm knows"):
        create_optimizer(model(), OptimConfig(layer_decay=0.5), global_batch=1)


def test_mistakes_are_one_line():
    with pytest.raises(UserError, match=r"'adamv'.*Did you mean 'adam"):
        create_optimizer(model(), OptimConfig(opt="adamv"), global_batch=1)
    with pytest.raises(UserError, match="betaz"):
        create_optimizer(model(), OptimConfig(opt_kwargs={"betaz": 1}), global_batch=1)
    with pytest.raises(UserError, match="'adahessian' needs second derivatives"):
        create_optimizer(model(), OptimConfig(opt="adahessian"), global_batch=1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="it may be had where there is a GPU")
def test_an_optimiser_that_needs_a_gpu_is_one_line():
    for name in map(str, list_optimizers(["fused*", "bnb*"])):
        with pytest.raises(UserError, match=f"'{name}' cannot be had here: CUDA required"):
            create_optimizer(model(), OptimConfig(opt=name), global_batch=1)


def rates(optim, epochs, steps=1, start=0):
    """The rate of each epoch (or step), from a fresh optimiser told only where it is, as after a resume."""
    optimizer = create_optimizer(model(), optim, global_batch=1)
    schedule = create_schedule(optimizer, optim, epochs=epochs, steps_per_epoch=steps)
    found = []
    for step in range(start * steps, epochs * steps):
        if schedule is not None:
            schedule.step(step // steps)
            schedule.step_update(step)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_cosine_goes_on_where_it_stopped():
    optim = OptimConfig(lr=0.1, sched="cosine")
    assert rates(optim, 10, start=5)[:3] == pytest.approx([0.05, 0.034549, 0.020611], abs=1e-6)
    closed = [0.05 * (1 + math.cos(math.pi * epoch / 10)) for epoch in range(10)]
    assert rates(optim, 10) == pytest.approx(closed)
    assert rates(optim, 10, start=5) == pytest.approx(closed[5:])


def test_schedule_by_step():
    optim = OptimConfig(lr=0.1, sched="cosine", sched_on_updates=True)
    closed = [0.05 * (1 + math.cos(math.pi * step / 12)) for step in range(12)]
    assert rates(optim, 4, steps=3) == pytest.approx(closed)
    assert rates(optim, 4, steps=3, start=2) == pytest.approx(closed[6:])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"sched": "none"}, [0.1] * 4),
        ({"sched": "step", "decay_epochs": 2}, [0.1, 0.1, 0.01, 0.01]),
        ({"sched": "multistep", "decay_milestones": [2, 4]}, [0.1, 0.01, 0.01, 0.001]),  # timm counts from 1
        ({"sched": "poly", "decay_rate": 1.0}, [0.1, 0.075, 0.05, 0.025]),
        ({"sched": "cosine", "warmup_epochs": 2, "warmup_lr": 0.0}, [0.0, 0.05, 0.05, 0.05 * (1 - 2**-0.5)]),
        ({"sched": "cosine", "min_lr": 0.1}, [0.1] * 4),
    ],
)
def test_schedules(settings, expected):
    assert rates(OptimConfig(lr=0.1, **settings), 4) == pytest.approx(expected, abs=1e-9)


def test_the_warm_up_and_cosine_of_the_cnn_recipes():
    """A linear warm-up from a hundredth, then torch's cosine over the epochs that remain: as the authors do."""
    optim = OptimConfig(lr=0.01, sched="cosine", warmup_epochs=5, warmup_lr=1e-4, warmup_prefix=True)
    reference = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    warmup = torch.optim.lr_scheduler.LinearLR(reference, start_factor=0.01, total_iters=5)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(reference, T_max=95)
    both = torch.optim.lr_scheduler.SequentialLR(reference, [warmup, cosine], milestones=[5])
    expected = []
    for _ in range(100):
        expected.append(reference.param_groups[0]["lr"])
        reference.step()
        both.step()
    assert rates(optim, 100) == pytest.approx(expected, abs=1e-12)
    plain = rates(optim.model_copy(update={"warmup_prefix": False}), 100)
    assert plain[50] / expected[50] == pytest.approx(1 - 0.076, abs=5e-4)
    assert len(rates(optim, 5)) == 5  # nothing is left for the cosine


def test_mixup_mixes_images_and_targets_alike_and_smooths_nothing():
    assert create_mixup(AugmentConfig(), 3) is None
    mixup = create_mixup(AugmentConfig(mixup=0.8, cutmix=1.0), 3)
    images = torch.eye(4).reshape(4, 1, 2, 2)
    mixed, targets = mixup(images.clone(), torch.tensor([0, 1, 2, 0]))
    assert targets.shape == (4, 3)
    assert targets.sum(1).tolist() == pytest.approx([1.0] * 4)
    assert (targets[1] > 0).sum() == 2 or float(targets.max()) == 1.0  # smoothing would leave no zero
    only_mix = create_mixup(AugmentConfig(mixup=0.8), 3)
    mixed, targets = only_mix(images.clone(), torch.tensor([0, 1, 2, 0]))
    share = float(targets[1, 1])
    assert torch.allclose(mixed, share * images + (1 - share) * images.flip(0))
