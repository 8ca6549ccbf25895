"""Detectors of both kinds by name: ours (every file of ``detectors/``) and those of other packages.

Another package adds its own through an entry point of the group ``ood_nc.detectors``, name to class::

    [project.entry-points."ood_nc.detectors"]
    my_detector = "my_package.detectors:MyDetector"
"""

from __future__ import annotations

import importlib
import pkgutil
from fnmatch import fnmatchcase
from functools import cache
from importlib.metadata import entry_points
from typing import Any, TypeVar

from ood_nc.detection.base import BaseDetector
from ood_nc.detection.feature_base import FeatureDetector
from ood_nc.errors import UserError, nearest

DetectorType = TypeVar("DetectorType", bound=type[BaseDetector])
ENTRY_POINT_GROUP = "ood_nc.detectors"
KINDS = ("feature", "input")
_CLASSES: dict[str, type[BaseDetector]] = {}


def register_detector(cls: DetectorType) -> DetectorType:
    """Class decorator: make the detector known under ``cls.name``.

    Raises:
        UserError: the name is taken by another class, or the class lacks ``name``, ``info`` or valid ``requires``.
    """
    for attribute in ("name", "info", "requires"):
        if not hasattr(cls, attribute):
            raise UserError(f"Detector class {cls.__name__} has no class attribute {attribute!r}.")
    unknown = cls.requires - cls.inputs
    if unknown:
        raise UserError(f"Detector {cls.name!r} requires unknown inputs: {', '.join(sorted(unknown))}.")
    known = _CLASSES.setdefault(cls.name, cls)
    if known is not cls and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise UserError(f"Detector name {cls.name!r} is taken by {known.__module__}.{known.__qualname__}.")
    _CLASSES[cls.name] = cls
    return cls


def list_detectors(pattern: str = "*", kind: str | None = None) -> list[str]:
    """Names of all detectors that match a glob, sorted.

    Args:
        pattern: glob.
        kind: "feature" (read cached features and logits), "input" (read images, through the network), or None for
            both.

    Raises:
        UserError: unknown kind, or a plug-in that is no detector.
    """
    if kind not in (None, *KINDS):
        raise UserError(f"Unknown kind of detector {kind!r}: use feature or input.{nearest(str(kind), KINDS)}")
    _load_builtin()
    names = {*_CLASSES, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))}
    matching = sorted(name for name in names if fnmatchcase(name, pattern))
    return [name for name in matching if kind is None or detector_class(name).kind == kind]


def detector_class(name: str) -> type[BaseDetector]:
    """The class registered under ``name``: a ``FeatureDetector`` or an ``InputDetector``, as its ``kind`` says.

    Raises:
        UserError: unknown name, or a plug-in that is no detector.
    """
    _load_builtin()
    if name not in _CLASSES:
        for point in entry_points(group=ENTRY_POINT_GROUP, name=name):
            cls = point.load()
            if not (isinstance(cls, type) and issubclass(cls, BaseDetector)):
                raise UserError(
                    f"Plug-in detector {name!r} ({point.value}) is no subclass of FeatureDetector or InputDetector."
                )
            _CLASSES[name] = cls
    if name not in _CLASSES:
        raise UserError(f"Unknown detector {name!r}.{nearest(name, list_detectors())} See list_detectors().")
    return _CLASSES[name]


def create_detector(name: str, **hyperparameters: Any) -> BaseDetector:
    """An unfitted detector by name.

    Args:
        name: as in :func:`list_detectors`.
        **hyperparameters: of that detector; the others keep their defaults.

    Raises:
        UserError: unknown name or hyper-parameter, or a value out of range.
    """
    return detector_class(name)().set_params(**hyperparameters)


def create_feature_detector(name: str, **hyperparameters: Any) -> FeatureDetector:
    """An unfitted detector that reads features, by name.

    Raises:
        UserError: as :func:`create_detector`, or the detector reads images.
    """
    detector = create_detector(name, **hyperparameters)
    if not isinstance(detector, FeatureDetector):
        raise UserError(f"Detector {name!r} reads images through the network, not features.")
    return detector


@cache
def _load_builtin() -> None:
    package = importlib.import_module("ood_nc.detection.detectors")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
