"""timm's optimisers, schedules and mixup, from the configuration."""

from __future__ import annotations

from typing import Any

import torch
from timm.data import Mixup
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn

from ood_nc.config import AugmentConfig, OptimConfig
from ood_nc.errors import UserError, nearest


def create_optimizer(model: nn.Module, optim: OptimConfig, *, global_batch: int) -> torch.optim.Optimizer:
    """The optimiser over the model's trainable parameters.

    Args:
        model: its frozen weights are buffers, which no optimiser sees.
        optim: the configuration.
        global_batch: images an optimiser step, over all processes and accumulated batches; with ``lr_base_size`` the
            learning rate is ``lr * global_batch / lr_base_size``.

    Raises:
        UserError: unknown optimiser, or an argument that it does not have.
    """
    name, known = optim.opt.lower(), [str(known) for known in list_optimizers()]
    if name.removeprefix("lookahead_") not in known:
        raise UserError(f"optim.opt is {optim.opt!r}, which timm does not have.{nearest(name, known)}")
    if optim.layer_decay is not None and not hasattr(model, "group_matcher"):
        raise UserError("optim.layer_decay needs a model whose layers timm knows: leave it out.")
    try:
        optimizer = create_optimizer_v2(
            model,
            opt=optim.opt,
            lr=optim.lr * global_batch / (optim.lr_base_size or global_batch),
            weight_decay=optim.weight_decay,
            momentum=optim.momentum,
            filter_bias_and_bn=optim.weight_decay_exclude_1d,
            layer_decay=optim.layer_decay,
            **optim.opt_kwargs,
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"optim.opt {optim.opt!r} refuses its arguments (optim.opt_kwargs?): {error}.") from None
    except AssertionError as error:  # timm's word for a package or a GPU that is not there
        raise UserError(f"optim.opt {optim.opt!r} cannot be had here: {error}.") from None
    if getattr(optimizer, "is_second_order", False):
        raise UserError(f"optim.opt {optim.opt!r} needs second derivatives, which a step does not take: use another.")
    if optim.sched == "none":  # else the schedule heeds the factor of each layer
        for group in optimizer.param_groups:
            group["lr"] *= group.get("lr_scale", 1.0)
    return optimizer


def create_schedule(
    optimizer: torch.optim.Optimizer, optim: OptimConfig, *, epochs: int, steps_per_epoch: int
) -> Scheduler | None:
    """timm's schedule, None for a constant rate.

    timm's schedules are functions of the epoch (or step) they are told, so a resumed run needs no schedule state.
    """
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched=optim.sched,
        num_epochs=max(1, epochs - optim.warmup_epochs) if optim.warmup_prefix else epochs,
        decay_epochs=optim.decay_epochs,
        decay_milestones=list(optim.decay_milestones),
        decay_rate=optim.decay_rate,
        min_lr=optim.min_lr,
        warmup_lr=optim.warmup_lr,
        warmup_epochs=optim.warmup_epochs,
        warmup_prefix=optim.warmup_prefix,
        step_on_epochs=not optim.sched_on_updates,
        updates_per_epoch=steps_per_epoch,
    )
    return scheduler


def create_mixup(augment: AugmentConfig, num_classes: int) -> Mixup | None:
    """timm's mixup and cutmix, None when neither is on. The objective smooths the labels, so this does not."""
    if augment.mixup == 0 and augment.cutmix == 0:
        return None
    settings: dict[str, Any] = {"mixup_alpha": augment.mixup, "cutmix_alpha": augment.cutmix}
    return Mixup(**settings, label_smoothing=0.0, num_classes=num_classes)
