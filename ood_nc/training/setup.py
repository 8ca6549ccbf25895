"""Everything one run trains with, built from its configuration."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from timm.data import Mixup
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import DataLoader

from ood_nc.collapse import CollapseTracker
from ood_nc.config import Config
from ood_nc.data import (
    ImageDataset,
    Inputs,
    LabelSetInputs,
    eval_transform,
    load_data,
    load_label_sets,
    load_outliers,
    train_transform,
)
from ood_nc.errors import UserError
from ood_nc.losses import Objective
from ood_nc.models import ControlledModel, build_model, load_initial
from ood_nc.training.control import Control
from ood_nc.training.freezing import freeze, frozen_modules
from ood_nc.training.loading import EpochSampler, SeededSamples, outlier_loader, train_loader
from ood_nc.training.measurement import StepAverages
from ood_nc.training.objectives import create_objective
from ood_nc.training.optimization import create_mixup, create_optimizer, create_schedule
from ood_nc.training.seeds import seed_everything
from ood_nc.training.sharding import check_optimizer, local, shard
from ood_nc.training.unread import Unread

logger = logging.getLogger(__name__)


@dataclass
class Setup:
    """What the loop works with. ``module`` is ``model`` wrapped for the device, the precision and the processes."""

    config: Config
    accelerator: Accelerator
    model: ControlledModel
    module: nn.Module
    optimizer: AcceleratedOptimizer
    scheduler: Scheduler | None
    frozen: list[nn.Module]
    ema: ModelEmaV3 | None
    objective: Objective
    control: Control | None
    normalize: Callable[[torch.Tensor], torch.Tensor]
    mixup: Mixup | None
    loader: DataLoader
    outliers: DataLoader | None
    train_plain: ImageDataset
    val: ImageDataset
    steps_per_epoch: int
    global_batch: int
    averages: StepAverages
    unread: Unread | None  # of several processes alone
    tracker: CollapseTracker | None = None

    @property
    def sampler(self) -> EpochSampler:
        """The order of the training images."""
        assert isinstance(self.loader.sampler, EpochSampler)
        return self.loader.sampler

    @property
    def shown(self) -> ImageDataset | None:
        """The outliers that the network is shown, where there are some."""
        if self.outliers is None:
            return None
        assert isinstance(self.outliers.dataset, SeededSamples)
        assert isinstance(self.outliers.dataset.dataset, ImageDataset)
        return self.outliers.dataset.dataset

    def begin(self, epoch: int, batch: int) -> None:
        """Put sampler, module and log at a batch of an epoch; within one, the log goes on as it was restored."""
        for loader in (self.loader, self.outliers):
            if loader is not None:
                assert isinstance(loader.sampler, EpochSampler)
                loader.sampler.set_epoch(epoch, batch * int(loader.batch_size or 1))
        self.module.train()
        for module in self.frozen:
            module.eval()
        if batch == 0:
            self.averages.restart()
            self.tracker = self.new_tracker()

    def turns(self) -> Iterator[list[Any]]:
        """What each turn of the loop forwards: a batch, or those that make a step together; from `begin` on."""
        outliers: Iterable[Any] = repeat((None,)) if self.outliers is None else self.outliers
        turn = []
        for (images, targets, indices), (shown, *_) in zip(self.loader, outliers, strict=False):
            turn.append((images, targets, indices, shown))
            if len(turn) == self.batches_per_turn:
                yield turn
                turn = []

    @property
    def batches_per_turn(self) -> int:
        """Batches whose loss is taken together."""
        return self.config.train.grad_accum_steps if self.config.train.grad_accum_joint else 1

    def new_tracker(self) -> CollapseTracker | None:
        """What follows the collapse over one epoch; None where it is not asked for, or images have no class."""
        interval = min(self.config.train.track_interval, len(self.loader) // self.batches_per_turn)
        if interval == 0 or self.config.multilabel is not None:
            return None
        return CollapseTracker(self.model.num_classes, interval=interval, window=max(1, interval // 10))

    @torch.no_grad()
    def is_finite(self) -> bool:
        """Whether every weight is a number; the same in every process."""
        sums = torch.stack([local(weight).float().sum() for weight in self.model.parameters()])
        return bool((self.accelerator.reduce(sums) if self.sharded else sums).isfinite().all())

    @property
    def sharded(self) -> bool:
        """Whether each process holds a part of the weights alone."""
        return isinstance(self.model, FSDPModule)

    @property
    def takes_part(self) -> bool:
        """Whether this process forwards what the main one measures: where weights are sharded, all do."""
        return self.accelerator.is_main_process or self.sharded

    @property
    def measured(self) -> ControlledModel:
        """The model that is measured and kept as the best: of the averaged weights, where they are averaged."""
        if self.ema is None:
            return self.model
        assert isinstance(self.ema.module, ControlledModel)
        return self.ema.module

    @property
    def images_per_epoch(self) -> int:
        """Images of one epoch, over all processes."""
        return len(self.sampler) * self.accelerator.num_processes

    def on_device(self, images: torch.Tensor) -> torch.Tensor:
        """Images on the device, normalised, in the memory layout that the configuration says."""
        images = self.normalize(images.to(self.accelerator.device, non_blocking=True))
        return images.contiguous(memory_format=torch.channels_last) if self.config.train.channels_last else images

    def place(self, images: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch on the device, normalised, in the memory layout and mixed as the configuration says."""
        images = self.on_device(images)
        targets = targets.to(self.accelerator.device, non_blocking=True)
        return (images, targets) if self.mixup is None else self.mixup(images, targets)

    def groups(self, indices: torch.Tensor) -> torch.Tensor | None:
        """Which image each row is a copy of, under repeated augmentation: copies are no neighbours."""
        return indices.to(self.accelerator.device) if self.config.augment.aug_repeats > 1 else None

    @property
    def peak_rate(self) -> float:
        """The learning rate that the schedule starts from or warms up to, of the layer that has the highest."""
        groups = self.optimizer.param_groups
        return float(self.optimizer.defaults["lr"] * max(group.get("lr_scale", 1.0) for group in groups))

    def set_learning_rate(self, epoch: int, step: int) -> float:
        """Put the optimiser at the schedule's rate for this epoch and step, and return it."""
        if self.scheduler is not None:
            self.scheduler.step(epoch)
            self.scheduler.step_update(step)
        return max(float(group["lr"]) for group in self.optimizer.param_groups)


def prepare(config: Config, accelerator: Accelerator, *, from_checkpoint: bool = False) -> Setup:
    """Open the data, build the model, and everything between.

    Args:
        config: the configuration.
        accelerator: device, precision, processes.
        from_checkpoint: the weights will be replaced, so pretrained ones need not be fetched.

    Raises:
        UserError: the configuration asks for what is not there.
    """
    train, processes = config.train, accelerator.num_processes
    seed_everything(train.seed, "model")
    if config.data.outliers is not None and not config.loss.terms:
        raise UserError("data.outliers are for a loss that reads them: name outlier_exposure in loss.terms.")
    data = _sets(config, accelerator)
    shown = load_outliers(config.data, data, workers=train.workers) if isinstance(data, Inputs) else None
    assert data.id_val is not None  # every run holds some out
    model = _build(config, data.id_train.class_names or (), from_checkpoint=from_checkpoint)
    if train.channels_last:
        model = model.to(memory_format=torch.channels_last)
    mixup = create_mixup(config.augment, model.num_classes)
    transform = train_transform(model.preprocessing, config.augment, by_batch=True)
    loader, outliers = _loaders(config, data.id_train, shown, transform, accelerator, even=mixup is not None)
    steps_per_epoch = len(loader) // train.grad_accum_steps
    global_batch = int(loader.batch_size or 1) * train.grad_accum_steps * processes
    unread = Unread(model, accelerator) if processes > 1 else None
    _share_out(model, config, accelerator)
    optimizer = create_optimizer(model, config.optim, global_batch=global_batch)
    scheduler = create_schedule(optimizer, config.optim, epochs=train.epochs, steps_per_epoch=steps_per_epoch)
    own = isinstance(model, FSDPModule)  # which needs no DistributedDataParallel around it
    module = accelerator.prepare_model(model, device_placement=not own, evaluation_mode=own)
    optimizer = accelerator.prepare_optimizer(optimizer)
    objective = create_objective(config, model, torch.as_tensor(data.id_train.targets)).to(accelerator.device)
    return Setup(
        config=config,
        accelerator=accelerator,
        model=model,
        module=module,
        optimizer=optimizer,
        scheduler=scheduler,
        frozen=frozen_modules(model),
        ema=ModelEmaV3(model, train.model_ema_decay, use_warmup=train.model_ema_warmup) if train.model_ema else None,
        objective=objective,
        control=_control(config, model, objective, data.id_train, accelerator, batches=len(loader) * train.epochs),
        normalize=transform.normalize,
        mixup=mixup,
        loader=loader,
        outliers=outliers,
        train_plain=data.id_train.with_transform(eval_transform(model.preprocessing)),
        val=data.id_val.with_transform(eval_transform(model.preprocessing)),
        steps_per_epoch=steps_per_epoch,
        global_batch=global_batch,
        averages=StepAverages(accelerator),
        unread=unread,
    )


def _sets(config: Config, accelerator: Accelerator) -> Inputs | LabelSetInputs:
    if config.multilabel is not None:
        return load_label_sets(config.data, config.multilabel, seed=config.train.seed, workers=config.train.workers)
    data = load_data(config.data, seed=config.train.seed, workers=config.train.workers)
    if accelerator.is_main_process:
        for note in data.notes:
            logger.warning("%s", note)
    return data


def _build(config: Config, class_names: tuple[str, ...], *, from_checkpoint: bool) -> ControlledModel:
    """The model for these classes, which it remembers by name."""
    settings = config.model
    if from_checkpoint:
        settings = settings.model_copy(update={"pretrained": False, "checkpoint": None})
    if settings.num_classes not in (None, len(class_names)):
        raise UserError(
            f"model.num_classes is {settings.num_classes}, but data.train has {len(class_names)} classes: leave it out."
        )
    model = build_model(settings, len(class_names))
    model.class_names = class_names
    if settings.head_init == "xavier_uniform" and isinstance(model.head, nn.Linear):
        nn.init.xavier_uniform_(model.head.weight)
    model.preprocessing = {**model.preprocessing, "pixels": config.data.pixels.model_dump(mode="json")}
    model.spec()  # what no checkpoint could hold is refused now, not after an epoch
    report = load_initial(model, settings)
    if report is not None:
        logger.warning("%s", report)
    freeze(model, settings.freeze)
    return model


def _loaders(
    config: Config,
    images: ImageDataset,
    shown: ImageDataset | None,
    transform: Callable[..., Any],
    accelerator: Accelerator,
    *,
    even: bool,
) -> tuple[DataLoader, DataLoader | None]:
    """This process's share of the training images, and of the outliers where there are some."""
    train, processes = config.train, accelerator.num_processes
    if train.batch_size % processes:
        raise UserError(f"train.batch_size is {train.batch_size}, which {processes} processes cannot share evenly.")
    loading: dict[str, Any] = {"workers": train.workers, "pin_memory": accelerator.device.type == "cuda"}
    loader = train_loader(
        images.with_transform(transform),
        batch_size=train.batch_size // processes,
        accum_steps=train.grad_accum_steps,
        repeats=config.augment.aug_repeats,
        balance=images.targets if train.balanced_sampling else None,
        even=even,
        seed=train.seed,
        rank=accelerator.process_index,
        world=processes,
        **loading,
    )
    if shown is None:
        return loader, None
    return loader, outlier_loader(shown.with_transform(transform), loader, seed=train.seed, **loading)


def _share_out(model: ControlledModel, config: Config, accelerator: Accelerator) -> None:
    """Leave this process its share of the weights, where the configuration says so."""
    train, processes = config.train, accelerator.num_processes
    if train.shard and processes > 1:
        check_optimizer(config.optim, accelerator.device, processes)
        shard(model, accelerator.device, processes)
    elif train.shard:
        logger.warning("train.shard: one process holds everything. Start several with torchrun to share it out.")


def _control(
    config: Config,
    model: ControlledModel,
    objective: Objective,
    images: ImageDataset,
    accelerator: Accelerator,
    *,
    batches: int,
) -> Control | None:
    """What steers the weights of the controlled taps, None where there are none."""
    if not config.control:
        return None
    targets = torch.as_tensor(images.targets)
    if config.augment.mixup or config.augment.cutmix or targets.ndim > 1:
        raise UserError("control needs images of one class each: turn augment.mixup and augment.cutmix off.")
    return Control(
        config.control,
        torch.bincount(targets, minlength=model.num_classes),
        objective,
        batches=batches // (config.train.grad_accum_steps if config.train.grad_accum_joint else 1),
        device=accelerator.device,
    )
