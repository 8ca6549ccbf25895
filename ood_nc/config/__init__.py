"""The configuration: one schema for files, flags and Python, with timm's names where timm has a flag for a thing."""

from __future__ import annotations

from ood_nc.config.companions import unread_keys
from ood_nc.config.control import ControlConfig
from ood_nc.config.data import DataConfig, OodSet, PixelConfig, TransferSet
from ood_nc.config.fine_tuning import FineTuningConfig
from ood_nc.config.graphs import GraphsConfig
from ood_nc.config.intermediate import IntermediateConfig
from ood_nc.config.loading import known_keys, load, parse_yaml
from ood_nc.config.multilabel import MultilabelConfig
from ood_nc.config.schema import (
    AugmentConfig,
    Config,
    EvaluationConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    ProjectorConfig,
    TrainConfig,
)
from ood_nc.config.values import kinds_of

__all__ = [
    "AugmentConfig",
    "Config",
    "ControlConfig",
    "DataConfig",
    "EvaluationConfig",
    "FineTuningConfig",
    "GraphsConfig",
    "IntermediateConfig",
    "LossConfig",
    "ModelConfig",
    "MultilabelConfig",
    "OodSet",
    "OptimConfig",
    "PixelConfig",
    "ProjectorConfig",
    "TrainConfig",
    "TransferSet",
    "kinds_of",
    "known_keys",
    "load",
    "parse_yaml",
    "unread_keys",
]
