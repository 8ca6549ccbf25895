"""The objective that a configuration describes."""

from __future__ import annotations

import torch

from ood_nc.config import Config
from ood_nc.errors import UserError, nearest
from ood_nc.losses import Objective, Term
from ood_nc.models import ControlledModel
from ood_nc.training.control import steered_terms


def create_objective(config: Config, model: ControlledModel, targets: torch.Tensor) -> Objective:
    """The objective of a configuration.

    Args:
        config: the configuration.
        model: whose taps it reads.
        targets: of the training images, for class weights.

    Raises:
        UserError: it names a tap that the model does not have.
    """
    settings, controlled = config.loss, [control.tap for control in config.control]
    objective = Objective(
        settings.task,
        smoothing=settings.smoothing,
        entropy_weights={tap: w for tap, w in settings.entropy_weights().items() if tap not in controlled},
        entropy_scope=settings.entropy_scope,
        terms=[Term(**term.model_dump()) for term in settings.terms],
        steered=steered_terms(config.control, settings),
        class_weights=None if settings.class_weights == "none" else balanced_weights(targets, model.num_classes),
    )
    missing = [term.tap for term in objective.terms if term.tap not in model.tap_names]
    if missing:
        named = {
            **dict.fromkeys(settings.entropy_weights(), "loss.entropy_weight"),
            **dict.fromkeys(controlled, "control"),
        }
        key = named.get(missing[0], "loss.terms")
        hint = nearest(missing[0], model.tap_names) or f" It has: {', '.join(model.tap_names)}."
        raise UserError(f"{key} names {missing[0]!r}, which is no tap of the model (model.taps).{hint}")
    return objective


def balanced_weights(targets: torch.Tensor, num_classes: int) -> torch.Tensor:
    """A weight (C,) a class, in inverse proportion to its images; their mean over the images is 1.

    A class without images has weight 0.

    Args:
        targets: the class of each training image (N,).
        num_classes: C.
    """
    counts = torch.bincount(targets, minlength=num_classes).double()
    return torch.where(counts > 0, len(targets) / (counts.clamp(min=1) * (counts > 0).sum()), 0.0).float()
