"""Where a run computes: the device, the precision, the processes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState

from ood_nc.config import TrainConfig
from ood_nc.devices import choose_device
from ood_nc.errors import UserError
from ood_nc.processes import is_distributed
from ood_nc.stopping import interruptible_wait

_LETTING_GO = 0.05
"""Seconds; the threads need some microseconds."""

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
    device = own_device(train.device)
    precision = {"float16": "fp16", "bfloat16": "bf16"}[train.amp_dtype] if train.amp else "no"
    if precision == "fp16" and device.type == "cpu":
        raise UserError("train.amp_dtype float16 needs a GPU: use --amp-dtype bfloat16, or leave --amp out.")
    distributed = is_distributed()
    foreign_group = dist.is_available() and dist.is_initialized()
    saved = [dict(state._shared_state) for state in _STATES]
    _replace_states([{} for _ in _STATES])
    try:
        with _configuration_decides():
            if not distributed:  # among several processes the device is Accelerate's to choose
                PartialState(cpu=device.type == "cpu").device = device
            with interruptible_wait() if distributed else nullcontext():  # until all have come
                accelerator = Accelerator(
                    cpu=device.type == "cpu",
                    mixed_precision=precision,
                    gradient_accumulation_steps=1 if train.grad_accum_joint else train.grad_accum_steps,
                    dynamo_backend="inductor" if train.torchcompile else "no",
                )
            yield accelerator
            if accelerator.num_processes > 1 and not foreign_group:
                leave_group()
    finally:
        _replace_states(saved)


def own_device(name: str) -> torch.device:
    """The device of this process: among several on GPUs each has its own.

    Raises:
        UserError: the device is not there, or is one GPU for all of several processes.
    """
    device = choose_device(name)
    if not is_distributed() or device.type != "cuda":
        return device
    if device.index is not None:
        raise UserError(f"train.device is {name!r}, but each process takes its own GPU: use cuda.")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


@contextmanager
def joined() -> Iterator[None]:
    """Let the processes that ``torchrun`` or ``accelerate launch`` started share passes over images (`forwarded`).

    Features go from memory to memory, so the group is gloo's on any device. What ends one process ends all: the error
    that came first is everybody's, so that the main process says it, whichever had it.
    """
    if not is_distributed() or dist.is_initialized():
        yield
        return
    with interruptible_wait():  # until all have come
        store, rank, world = next(dist.rendezvous("env://"))
        told = dist.PrefixStore("ood_nc", store)
        dist.init_process_group("gloo", store=dist.PrefixStore("gloo", store), rank=rank, world_size=world)
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        first = _first_error(told, error)
        leave_group()  # who waits for this process learns of it by that
        with suppress(RuntimeError):
            told.set(f"knows {rank}", "")
            if rank == 0:  # the store may be this process's: it stays until the others have read what ended them
                told.wait([f"knows {other}" for other in range(world)], timedelta(seconds=10))
        raise error if first is None else first from None
    with suppress(RuntimeError):  # the others may have gone
        leave_group()


def leave_group() -> None:
    """Leave the group of processes, when the threads of its last collective have let go of their tensors.

    For that they need the interpreter's lock, with which PyTorch 2.6 waits for them: for ever, where they come second.
    """
    time.sleep(_LETTING_GO)
    dist.destroy_process_group()


def _first_error(told: dist.Store, error: BaseException) -> Exception | None:
    """The error that another process had before; None where this one is the first."""
    try:
        if isinstance(error, KeyboardInterrupt):  # sent to all when one has ended, or the user's
            found = told.get("error") if told.check(["error"]) else b""
        else:
            own = json.dumps([isinstance(error, UserError), f"{error}" or type(error).__name__])
            found = told.compare_set("error", "", own)
            found = b"" if found == own.encode() else found
    except RuntimeError:  # the process that keeps the store has gone
        return None
    if not found:
        return None
    users, text = json.loads(found)
    return UserError(text) if users else RuntimeError(text)


def _replace_states(contents: list[dict]) -> None:
    for state, content in zip(_STATES, contents, strict=True):
        state._shared_state.clear()
        state._shared_state.update(content)
