"""Weights, gradients and moments shared out over the processes (FSDP2), and put together for a checkpoint.

Source: Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel" (VLDB 2023).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from accelerate.utils import recursively_apply
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

from ood_nc.config import OptimConfig
from ood_nc.errors import UserError
from ood_nc.models import ControlledModel
from ood_nc.models.taps import block_names
from ood_nc.training.optimization import create_optimizer


def shard(model: ControlledModel, device: torch.device, processes: int) -> None:
    """Leave each process its share of every parameter, in place.

    The parameters of a block of the backbone are whole while it runs; those outside of the blocks (the head's among
    them, which losses read) from a forward pass until its gradients are there, or until `state_dict`. Buffers, a frozen
    projector's among them, stay whole.

    Args:
        model: the same weights in every process, before an optimiser knows them.
        device: of this process.
        processes: their number.

    Raises:
        UserError: PyTorch cannot shard the model, or on this device.
    """
    if device.type == "cpu" and not hasattr(torch.cpu.Stream, "record_event"):
        raise UserError(f"train.shard on CPUs needs a newer PyTorch than {torch.__version__}: leave it out.")
    # It warns of what changes features in place, and no loss does.
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module \(FSDPControlledModel\) returned a view")
    mesh = init_device_mesh(device.type, (processes,))
    named = dict(model.backbone.named_modules())
    blocks = [named[name] for name in block_names(model.backbone, [name for name in named if name])]
    try:
        for block in reversed(blocks):  # inner ones first
            if type(block).forward is not nn.Module.forward:  # a list of modules never runs itself
                fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh, reshard_after_forward=False)
    except (ValueError, NotImplementedError, TypeError, AssertionError) as error:
        raise UserError(f"{model.backbone_name} cannot be sharded ({error}): leave train.shard out.") from None


def check_optimizer(optim: OptimConfig, device: torch.device, processes: int) -> None:
    """Take two steps of a small layer, whole and sharded. Every process calls it.

    Raises:
        UserError: they are not the same steps, or PyTorch cannot take them on shards.
    """
    plain = _two_steps(optim, device, None)
    try:
        sharded = _two_steps(optim, device, init_device_mesh(device.type, (processes,)))
    except Exception:  # of whatever kind: an operation of the optimiser that PyTorch has not for shards
        sharded = plain.new_full(plain.shape, torch.nan)
    if not torch.allclose(plain, sharded, rtol=1e-4, atol=1e-6):
        raise UserError(
            f"optim.opt {optim.opt!r} does not take the same steps on shards: use adamw, or leave train.shard out."
        )


def _two_steps(optim: OptimConfig, device: torch.device, mesh: DeviceMesh | None) -> torch.Tensor:
    layer = nn.utils.skip_init(nn.Linear, 64, 64, device=device)  # draws no random numbers
    for parameter in layer.parameters():
        parameter.data.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))
    if mesh is not None:
        fully_shard(layer, mesh=mesh)
    optimizer = create_optimizer(layer, optim.model_copy(update={"layer_decay": None}), global_batch=1)
    for _ in range(2):
        for parameter in layer.parameters():
            parameter.grad = parameter.detach().cos()
        optimizer.step()
    weights: torch.Tensor = whole(layer.state_dict(), kept=True)["weight"]
    return weights.cpu()


def local(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor; all, where it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(state: Mapping[str, Any], *, kept: bool) -> Any:
    """A state dict with whole tensors in the place of shards. Every process calls it.

    Args:
        state: of a model or an optimiser; one without shards is returned as it is.
        kept: whether this process wants them, in its main memory; else they are empty.
    """

    def joined(shard: DTensor) -> torch.Tensor:
        full = shard.full_tensor()
        return full.cpu() if kept else full.new_empty(0)

    return recursively_apply(joined, state, test_type=lambda value: isinstance(value, DTensor))


def share_of_weights(weights: Mapping[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """What a model's `state_dict` would be, had it these whole ``weights``. Every process calls it."""
    own = model.state_dict()
    return {name: _share(tensor, own.get(name)) for name, tensor in weights.items()}


def share_of_moments(state: Mapping[str, Any], parameters: Iterable[torch.Tensor]) -> dict[str, Any]:
    """The state dict of an optimiser, from one with whole moments. Every process calls it.

    Args:
        state: of an optimiser of the same parameters.
        parameters: the optimiser's, in its order.
    """
    moments = {
        number: {name: _share(value, parameter) for name, value in state["state"][number].items()}
        for number, parameter in enumerate(parameters)
        if number in state["state"]
    }
    return {**state, "state": moments}


def _share(value: Any, like: torch.Tensor | None) -> Any:
    """This process's share; a tensor of another shape than its parameter's (a factor of its moments) stays whole."""
    if not isinstance(like, DTensor) or not isinstance(value, torch.Tensor) or value.ndim == 0:
        return value
    placements = like.placements if value.shape == like.shape else [Replicate()]
    return distribute_tensor(value.to(like.device), like.device_mesh, placements)
