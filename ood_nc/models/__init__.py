"""Backbones with taps, adapters, projectors and heads: the controlled model, its weights, what it is built from."""

from ood_nc.models.adapter import Adapter
from ood_nc.models.backbone import default_num_classes, list_backbones, list_taps
from ood_nc.models.checkpoints import LoadReport, load_by_order, load_initial, load_weights, weights_hash
from ood_nc.models.controlled import ControlledModel, build_model
from ood_nc.models.etf import ETFClassifier, simplex_vertices
from ood_nc.models.foreign import load_foreign
from ood_nc.models.projector import Projector
from ood_nc.models.taps import TapInfo

__all__ = [
    "Adapter",
    "ControlledModel",
    "ETFClassifier",
    "LoadReport",
    "Projector",
    "TapInfo",
    "build_model",
    "default_num_classes",
    "list_backbones",
    "list_taps",
    "load_by_order",
    "load_foreign",
    "load_initial",
    "load_weights",
    "simplex_vertices",
    "weights_hash",
]
