"""Whatever network is to be evaluated, as one whose layers can be read."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from ood_nc.errors import UserError
from ood_nc.models import ControlledModel

MODULE_TAPS = ("stages", "encoder")


def open_model(model: Any, num_classes: int) -> Any:
    """A model with taps: itself, or a `ControlledModel` on a copy of the module.

    A timm model keeps its classifier and gives its stages and its encoder; of any other module the output (B, d) is the
    encoder, and an ID probe stands in for a head. The module itself is not changed.

    Args:
        model: a `ControlledModel`, a timm model, or a module that maps images to (B, d).
        num_classes: of the ID data, where the module does not say.

    Raises:
        UserError: it is no module, or does not give (B, d).
    """
    if hasattr(model, "tap_info"):
        return model
    if not isinstance(model, nn.Module):
        raise UserError(f"A model must be a ControlledModel, a timm model or a module, got {type(model).__name__}.")
    own = copy.deepcopy(model)
    if hasattr(model, "pretrained_cfg"):
        classes: Any = getattr(model, "num_classes", 0) or num_classes
        return ControlledModel(own, int(classes), projector=None, taps=MODULE_TAPS)
    return ControlledModel(own, num_classes, projector=None, taps=("encoder",))
