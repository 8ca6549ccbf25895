"""Fine-tuning as a probe: a stated part of the backbone and a fresh head learn a transfer task; the rest stays."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from timm.optim import create_optimizer_v2, list_optimizers
from torch import nn

from ood_nc.config import FineTuningConfig
from ood_nc.data import ImageDataset, transfer_keys
from ood_nc.errors import UserError, nearest
from ood_nc.evaluation.measurement_plan import Plan
from ood_nc.features import ImageBatches
from ood_nc.passes import evaluating
from ood_nc.progress import progress
from ood_nc.transfer import ProbeResult, check_task, fit_linear_probe, read_test

ENCODER = "encoder"


def check_fine_tuning(model: Any, wanted: FineTuningConfig) -> None:
    """Refuse what could not be fine-tuned, before anything is computed.

    Raises:
        UserError: the encoder is no tap, a name is no part of the backbone, or timm has no such optimiser.
    """
    if ENCODER not in model.tap_info:
        raise UserError("Fine-tuning starts from the linear probe of the encoder: name `encoder` among the taps.")
    known = [str(name) for name in list_optimizers()]
    if wanted.optimizer not in known:
        unknown = f"finetune.optimizer is {wanted.optimizer!r}, which timm does not have."
        raise UserError(unknown + nearest(wanted.optimizer, known))
    _learning(model.backbone, wanted.part)


def fine_tune(plan: Plan, wanted: FineTuningConfig, name: str) -> ProbeResult:
    """Fine-tune a copy of the backbone on a transfer task's train part and read the test part once, at the end.

    The head starts as the linear probe of the encoder, so that no pass is spent on a head that knows nothing and spoils
    the features meanwhile. Images are those of the evaluation, not augmented. Norms of the part that learns take the
    statistics of the batch; everything else is in evaluation mode. Nothing is chosen.

    Args:
        plan: the model, the sets and their features.
        wanted: part, passes, optimiser and learning rate.
        name: of the transfer task.

    Raises:
        UserError: the labels are missing, or not of two classes.

    Source: Kumar, Raghunathan, Jones, Ma, Liang, "Fine-Tuning can Distort Pretrained Features and Underperform
    Out-of-Distribution", ICLR 2022 (LP-FT).
    """
    start = time.perf_counter()
    banks = [plan.banks[key] for key in transfer_keys(name)]
    task = check_task(*(part for bank in banks for part in (bank.taps[ENCODER], bank.labels)))
    probe = fit_linear_probe(task.train_features, task.train_labels, seed=plan.seed)
    classes, dim = probe.weight.shape
    head = nn.Linear(dim, classes)
    head.load_state_dict({"weight": probe.weight, "bias": probe.bias})
    backbone = copy.deepcopy(plan.model.backbone)
    learning = _learning(backbone, wanted.part)
    network = nn.Sequential(backbone, head).to(plan.device)
    train, test = (plan.inputs.all()[key] for key in transfer_keys(name))
    with evaluating(network):
        for parameter in backbone.parameters():
            parameter.requires_grad_(any(parameter is one for one in learning))
        for module in backbone.modules():
            own = list(module.parameters(recurse=False))
            module.training = bool(own) and all(parameter.requires_grad for parameter in own)
        _train(network, [*learning, *head.parameters()], train, wanted, plan)
        network.eval()
        with torch.inference_mode():
            parts = [network(images.to(plan.device)).argmax(dim=1) for images, _ in _batches(test, plan)]
    predictions = torch.cat(parts).to(task.test_labels.device)
    return read_test(task, predictions, start, selected={"passes": wanted.passes})


def _train(
    network: nn.Module, parameters: list[nn.Parameter], train: ImageDataset, wanted: FineTuningConfig, plan: Plan
) -> None:
    optimizer = create_optimizer_v2(parameters, opt=wanted.optimizer, lr=wanted.learning_rate, weight_decay=0.0)
    steps = wanted.passes * math.ceil(len(train) / plan.loading["batch_size"])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.Generator().manual_seed(plan.seed)
    with progress(f"fine-tuning on {train.name}", wanted.passes * len(train)) as advance, torch.enable_grad():
        for _ in range(wanted.passes):
            shuffled = train.subset(torch.randperm(len(train), generator=order).numpy())
            for images, labels in _batches(shuffled, plan):
                advance(len(images))
                if len(images) == 1 < min(len(train), plan.loading["batch_size"]):
                    continue  # norms have no statistics of one image; in another pass another is left over
                logits = network(images.to(plan.device))
                loss = nn.functional.cross_entropy(logits, labels.to(plan.device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()


def _batches(dataset: ImageDataset, plan: Plan) -> ImageBatches:
    return ImageBatches(dataset, batch_size=plan.loading["batch_size"], workers=plan.loading["workers"])


def _learning(backbone: nn.Module, part: Sequence[str]) -> list[nn.Parameter]:
    """The weights of the named modules, or of these names."""
    named = dict(backbone.named_parameters())
    found: dict[str, nn.Parameter] = {}
    for pattern in part:
        inside = {name: one for name, one in named.items() if _matches(name, pattern)}
        if not inside:
            modules = [name for name, _ in backbone.named_modules() if name]
            unknown = f"finetune.part names {pattern!r}, which is no part of the backbone with weights."
            raise UserError(unknown + nearest(pattern, modules))
        found |= inside
    return list(found.values())


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
