"""What runs on graphs and on label sets read of the configuration: a key that would do nothing is not passed over."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from ood_nc.config.loading import known_keys
from ood_nc.config.schema import Config

READ_ON_GRAPHS = (
    *("output", "experiment", "graphs.*", "tracking.*", "optim.*", "data.root", "evaluation.detectors"),
    *("evaluation.bootstrap", "train.epochs", "train.seed", "train.clip_grad", "train.log_interval"),
    *("train.collapse_interval", "train.device", "train.workers"),
)
"""Keys and globs; there is nothing to load, so that any number of workers is as good as none."""

UNREAD_ON_LABEL_SETS = (
    *("data.transfer", "data.cache", "evaluation.protocols", "evaluation.ensembles", "evaluation.choose"),
    *("evaluation.probes", "evaluation.finetune.*", "evaluation.bank", "evaluation.bank_dtype"),
    *("evaluation.feature_map",),
)
"""Keys and globs."""


def unread_keys(config: Config) -> list[str]:
    """The keys that are not at their defaults, and that a run on graphs or on label sets does nothing with.

    Example:
        >>> from ood_nc.config import load, unread_keys
        >>> unread_keys(load(None, {"graphs.layers": 3, "train.amp": True, "train.epochs": 2}))
        ['train.amp']
        >>> unread_keys(load(None, {"train.amp": True}))
        []
    """
    if config.graphs is None and config.multilabel is None:
        return []
    plain = Config()
    changed = [key for key in known_keys() if _value(config, key) != _value(plain, key)]
    if config.graphs is not None:
        return [key for key in changed if not _is_among(key, READ_ON_GRAPHS)]
    return [key for key in changed if _is_among(key, UNREAD_ON_LABEL_SETS)]


def _value(config: Config, key: str) -> Any:
    """The value of a dotted key; None inside of a section that is not there."""
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name, None)
    return value


def _is_among(key: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)
