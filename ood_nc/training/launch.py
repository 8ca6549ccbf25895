"""Where a run computes: the device, the precision, the processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState

from ood_nc.config import TrainConfig
from ood_nc.devices import choose_device
from ood_nc.errors import UserError

_STATES = (PartialState, AcceleratorState, GradientState)

# What Accelerate would take from the environment in place of the configuration: precision, accumulation, compilation,
# device, sharding and clipping, all under these prefixes.
_RECIPE = ("ACCELERATE_", "FSDP_", "MEGATRON_LM_", "PARALLELISM_CONFIG_", "FP8_", "FORK_LAUNCHED", "XLA_")

# By these it finds the other processes; where `torchrun` has started none, they are somebody else's.
_LAUNCH = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "PMI_", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_")

# timm reads these when it is imported, so they can be refused but not undone: they exchange the model's code.
_REFUSED = ("TIMM_USE_NAFLEXVIT", "TIMM_USE_NAFLEX")

# What may come from the environment, because it says how and not what is computed; it is written down.
_RECORDED = (
    "WORLD_SIZE", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE",
    "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ENABLE_MPS_FALLBACK", "TIMM_FUSED_ATTN", "TIMM_REENTRANT_CKPT",
)  # fmt: skip


def is_main_process() -> bool:
    """Whether this process is the only one, or the first of those that ``torchrun`` started."""
    return not is_distributed() or int(os.environ.get("RANK", "0")) == 0


def is_distributed() -> bool:
    """Whether ``torchrun`` (or what sets the same variables) started more processes than this one."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def ignored_variables() -> list[str]:
    """The variables that are set and that a run does not look at, because the configuration decides."""
    prefixes = _RECIPE if is_distributed() else (*_RECIPE, *_LAUNCH)
    return sorted(name for name in os.environ if name.startswith(prefixes))


def recorded_variables() -> dict[str, str]:
    """The variables that are set and that decide how a run computes."""
    return {name: os.environ[name] for name in _RECORDED if name in os.environ}


@contextmanager
def _configuration_decides() -> Iterator[None]:
    """Hide `ignored_variables` while the block runs, and take back what was set in it."""
    for name in _REFUSED:
        if os.environ.get(name, "0").lower() not in ("", "0", "false"):
            raise UserError(f"{name}={os.environ[name]} exchanges the code of timm's models: unset it to train.")
    before = dict(os.environ)
    for name in ignored_variables():
        del os.environ[name]
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def accelerator_for(train: TrainConfig) -> Iterator[Accelerator]:
    """An Accelerator for one run; afterwards Accelerate's global state, and the environment, are as they were.

    The state is put back because Accelerate fixes device and precision for the life of a process, while one process
    may train several runs that differ in them. From the environment it gets the other processes and nothing else.

    Raises:
        UserError: the device is not there, or cannot do the precision.
    """
    device = choose_device(train.device)
    precision = {"float16": "fp16", "bfloat16": "bf16"}[train.amp_dtype] if train.amp else "no"
    if precision == "fp16" and device.type == "cpu":
        raise UserError("train.amp_dtype float16 needs a GPU: use --amp-dtype bfloat16, or leave --amp out.")
    distributed = is_distributed()
    if distributed and device.index is not None:
        raise UserError(f"train.device is {train.device!r}, but each process takes its own GPU: use cuda.")
    foreign_group = torch.distributed.is_available() and torch.distributed.is_initialized()
    saved = [dict(state._shared_state) for state in _STATES]
    _replace_states([{} for _ in _STATES])
    try:
        with _configuration_decides():
            if not distributed:  # among several processes the device is Accelerate's to choose
                PartialState(cpu=device.type == "cpu").device = device
            accelerator = Accelerator(
                cpu=device.type == "cpu",
                mixed_precision=precision,
                gradient_accumulation_steps=1 if train.grad_accum_joint else train.grad_accum_steps,
                dynamo_backend="inductor" if train.torchcompile else "no",
            )
            yield accelerator
            if accelerator.num_processes > 1 and not foreign_group:
                accelerator.state.destroy_process_group()
    finally:
        _replace_states(saved)


def _replace_states(contents: list[dict]) -> None:
    for state, content in zip(_STATES, contents, strict=True):
        state._shared_state.clear()
        state._shared_state.update(content)
