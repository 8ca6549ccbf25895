"""Which layers of a network stand for its stages, from one traced pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ood_nc.errors import UserError


class Visit(NamedTuple):
    """One run of a submodule: shapes of what it read and gave.

    Attributes:
        name: of the submodule.
        source: shape of its first argument, () where that is no tensor.
        shape: of its output.
        is_sequence: whether it is a plain sequence of others.
        is_head: whether it is linear and its output the logits.
    """

    name: str
    source: tuple[int, ...]
    shape: tuple[int, ...]
    is_sequence: bool
    is_head: bool = False

    @property
    def is_tokens(self) -> bool:
        """Tokens (B, T, d), or a map that looks like (B, H, W, C)."""
        return len(self.shape) == 3 or (len(self.shape) == 4 and self.shape[1] == self.shape[2] != self.shape[3])

    @property
    def size(self) -> tuple[int, ...] | None:
        """(H, W) of a feature map of more than one place."""
        is_map = len(self.shape) == 4 and not self.is_tokens
        return self.shape[2:] if is_map and self.shape[2] * self.shape[3] > 1 else None

    @property
    def shrinks(self) -> bool:
        """Whether this is a block that makes its map smaller; a sequence of stages does so, and is none."""
        has_maps = len(self.source) == 4 and self.size is not None
        return has_maps and not self.is_sequence and self.source[2:] != self.size


def visiting_hook(name: str, visits: list[Visit], outputs: list[Tensor]) -> Callable[..., None]:
    """A forward hook that notes the visit and its output."""

    def hook(layer: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, torch.Tensor):
            source = arguments[0] if arguments else None
            shape = tuple(source.shape) if isinstance(source, torch.Tensor) else ()
            visits.append(Visit(name, shape, tuple(output.shape), isinstance(layer, nn.Sequential)))
            outputs.append(output)

    return hook


def stages_of(visits: Sequence[Visit]) -> tuple[str, ...]:
    """The last layer at each size of feature map, in depth order (see ``Network.stages``).

    Raises:
        UserError: there is none, or tokens follow the last one.
    """
    runs = Counter(visit.name for visit in visits)
    blocks = [(f"{visit.name}.", visit.source[2:]) for visit in visits if visit.shrinks]
    found: dict[tuple[int, ...], str] = {}
    tokens_follow = False
    for visit in visits:
        if visit.is_tokens:
            tokens_follow = True
        size = visit.size
        if size is None or runs[visit.name] > 1:
            continue
        if any(visit.name.startswith(inside) and size == before for inside, before in blocks):
            continue
        found.pop(size, None)
        found[size] = visit.name
        tokens_follow = False
    if not found or tokens_follow:
        what = "goes on with tokens after its last feature map" if found else "has no layer with a feature map"
        raise UserError(f"The network {what}: name the layers to read.")
    return tuple(found.values())
