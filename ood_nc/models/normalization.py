"""Group norm and weight-standardised convolutions in place of batch norm (`normalization="group_ws"`)."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import Conv2dSame, GroupNormAct
from timm.layers.padding import pad_same
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ood_nc.errors import UserError
from ood_nc.models.probing import single_tensor, trace
from ood_nc.models.taps import block_names
from ood_nc.passes import evaluating

MAX_GROUPS = 32
SHORTCUTS = {"downsample", "shortcut", "skip", "identity", "proj_shortcut", "conv_skip"}
"""What the parts of a residual block beside its main path are called in timm."""


def group_count(channels: int, max_groups: int = MAX_GROUPS) -> int:
    """Return the largest divisor of ``channels`` that is at most ``max_groups``.

    Raises:
        UserError: ``max_groups`` below 1.
    """
    if max_groups < 1:
        raise UserError(f"max_groups must be at least 1, got {max_groups}.")
    return next(groups for groups in range(min(max_groups, channels), 0, -1) if channels % groups == 0)


def standardize(weight: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """Return the weight less its mean, over (unbiased std + eps), per output filter; at least float32.

    Source: Qiao et al., arXiv 1903.10520, with the divisor of the ICML 2025 code.
    """
    flat = weight.to(torch.float64 if weight.dtype == torch.float64 else torch.float32).flatten(1)
    centred = flat - flat.mean(dim=1, keepdim=True)
    return (centred / (flat.std(dim=1, keepdim=True) + eps)).view_as(weight).to(weight.dtype)


class WSConv2d(nn.Conv2d):
    """A bias-free convolution that standardises its weight before each use.

    With `same_padding` it pads as TensorFlow does (timm's `Conv2dSame`).
    """

    same_padding = False

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the convolution of ``input`` (B, C, H, W) with the standardised weight."""
        weight = standardize(self.weight)
        if not self.same_padding:
            return self._conv_forward(input, weight, None)
        padded = pad_same(input, list(self.kernel_size), list(self.stride), list(self.dilation))
        return F.conv2d(padded, weight, None, self.stride, 0, self.dilation, self.groups)


def to_group_norm(
    model: nn.Module, image_shape: tuple[int, int, int], name: str = "The model", max_groups: int = MAX_GROUPS
) -> None:
    """Replace every batch norm of ``model`` by group norm and standardise the convolutions around them, in place.

    A convolution becomes weight-standardised and bias-free when it has no bias already or feeds a batch norm directly
    (those of squeeze-and-excitation gates stay, as do filters of a single weight, which have no spread). The last
    norm of each residual block starts at zero, so that the block starts as its shortcut: a block counts as residual
    when it still passes something on with that norm at zero.

    Args:
        model: a freshly initialised network with batch norms.
        image_shape: (C, H, W) of the images it will see.
        name: what messages call it.
        max_groups: groups of a norm are the largest divisor of its channels up to this.

    Raises:
        UserError: no batch norm in the model, or ``max_groups`` below 1.
    """
    norms = [key for key, child in model.named_modules() if isinstance(child, _BatchNorm)]
    if not norms:
        raise UserError(f"{name} has no batch norm to replace: use normalization native.")
    seen = trace(model, image_shape)
    given = [seen.inputs.outputs.get(key) for key in norms]
    fed = {id(tensor) for tensor in given if tensor is not None}
    for key, child in list(model.named_modules()):
        if isinstance(child, _BatchNorm):
            _put(model, key, _group_norm(child, max_groups))
        elif type(child) in (nn.Conv2d, Conv2dSame) and (child.bias is None or id(seen.outputs.get(key)) in fed):
            _put(model, key, _standardized(child))
    _zero_last_norms(model, image_shape)


def _put(model: nn.Module, key: str, new: nn.Module) -> None:
    parent, _, child = key.rpartition(".")
    setattr(model.get_submodule(parent), child, new)


def _group_norm(old: Any, max_groups: int) -> nn.Module:
    groups = group_count(old.num_features, max_groups)
    reference = old.running_mean if old.weight is None else old.weight
    if not hasattr(old, "act"):
        return nn.GroupNorm(groups, old.num_features).to(reference)
    new = GroupNormAct(old.num_features, groups, apply_act=False).to(reference)
    new.drop, new.act = old.drop, old.act
    return new


def _standardized(old: Any) -> nn.Module:
    if old.weight[0].numel() == 1:
        return old
    sizes = (old.in_channels, old.out_channels, old.kernel_size, old.stride, old.padding, old.dilation, old.groups)
    like = {"padding_mode": old.padding_mode, "device": old.weight.device, "dtype": old.weight.dtype}
    new = WSConv2d(*sizes, bias=False, **like)
    new.weight, new.same_padding = old.weight, isinstance(old, Conv2dSame)
    return new


def _zero_last_norms(model: nn.Module, image_shape: tuple[int, int, int]) -> None:
    seen = trace(model, image_shape)
    modules: dict[str, Any] = dict(model.named_modules())
    handles = []
    for block in block_names(model, [name for name in seen.outputs if name]):
        inside = [name for name in seen.outputs if name.startswith(f"{block}.")]
        norms = [name for name in inside if isinstance(modules[name], nn.GroupNorm)]
        on_main_path = [name for name in norms if not SHORTCUTS & set(name.removeprefix(block).split("."))]
        if on_main_path:
            handles.append(modules[block].register_forward_hook(_ZeroIfResidual(modules[on_main_path[-1]].weight)))
    reference = next(model.parameters())
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, *image_shape, generator=generator).to(reference)
    with evaluating(model), torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()


class _ZeroIfResidual:
    """Zeroes a norm's weight where its block still tells two images apart without it; else the block would be dead."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = weight

    def __call__(self, block: nn.Module, args: tuple[torch.Tensor, ...], output: object) -> None:
        kept = self.weight.clone()
        self.weight.zero_()
        shortcut = single_tensor(block.forward(*args))
        if shortcut is None or torch.equal(shortcut[0], shortcut[1]):
            self.weight.copy_(kept)
