"""Weights that stay as they are while the others learn."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from ood_nc.errors import UserError, nearest


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Take the parameters that a name or a glob matches out of the training.

    Args:
        model: its parameters by their full names, e.g. ``backbone.layer1.*``.
        patterns: names and globs, each of at least one parameter.

    Raises:
        UserError: a pattern that matches nothing, or nothing is left to learn.
    """
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        names = [name for name in parameters if fnmatchcase(name, pattern)]
        if not names:
            raise UserError(
                f"model.freeze names {pattern!r}, which is no weight of the model.{nearest(pattern, parameters)}"
            )
        for name in names:
            parameters[name].requires_grad_(False)
    if patterns and not any(parameter.requires_grad for parameter in parameters.values()):
        raise UserError("model.freeze leaves no weight to train: name fewer.")


def frozen_modules(model: nn.Module) -> list[nn.Module]:
    """The modules that hold running statistics and only frozen parameters: those statistics stay too."""
    return [
        module
        for module in model.modules()
        if getattr(module, "running_mean", None) is not None
        and [*module.parameters()]
        and not any(parameter.requires_grad for parameter in module.parameters())
    ]
