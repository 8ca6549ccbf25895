"""The training loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, broadcast_object_list
from timm.data import Mixup
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ood_nc.config import Config
from ood_nc.data import eval_transform, load_data, scan, train_transform
from ood_nc.errors import UserError
from ood_nc.losses import Objective
from ood_nc.models import ControlledModel, build_model
from ood_nc.progress import progress
from ood_nc.tracking import LocalLog, Tracker, WandbLog
from ood_nc.training import checkpoints
from ood_nc.training.launch import accelerator_for, termination_interrupts
from ood_nc.training.loading import train_loader
from ood_nc.training.measurement import NonFiniteLossError, StepAverages, measure_collapse, validate
from ood_nc.training.optimization import create_mixup, create_optimizer, create_schedule
from ood_nc.training.run_directory import RunDirectory, check_start, record_start
from ood_nc.training.seeds import seed_everything

logger = logging.getLogger(__name__)


def train(config: Config, *, resume: bool = False) -> Path:
    """Train one model into its run directory.

    After every epoch the validation split is measured and a checkpoint written, so an interrupted run loses the epoch
    it was in and nothing else. Resumed, it repeats that epoch from its beginning with the same images, transforms and
    random numbers: on a CPU its weights equal those of a run that was never interrupted. Under ``torchrun`` or
    ``accelerate launch`` every process calls this function.

    Args:
        config: the whole configuration.
        resume: go on with the run that ``config.run_directory`` holds. A finished run is left as it is.

    Returns:
        The run directory.

    Raises:
        UserError: the configuration asks for what is not there, the directory holds a run (or, with ``resume``, none,
            or one that was configured differently), the loss is not finite, or a file cannot be written.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the argument says how to go on.
    """
    directory = RunDirectory(config.run_directory)
    with termination_interrupts(), accelerator_for(config.train) as accelerator:
        _together(accelerator, lambda: check_start(directory, config, resume=resume))
        last = checkpoints.read_last(directory.checkpoints) if resume else None
        if last is not None and last[1]["epoch"] >= config.train.epochs:
            _note(accelerator, f"{directory.path} is finished ({last[1]['epoch']} epochs): nothing to do.")
            return directory.path
        run = _prepare(config, directory, accelerator)
        if last is not None:
            _restore(run, *last)
        ...
    return directory.path
