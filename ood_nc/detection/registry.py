"""Detectors by name: ours (every file of ``detectors/``) and those of other packages.

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

from ood_nc.detection.base import INPUTS, Detector
from ood_nc.errors import UserError, nearest

DetectorType = TypeVar("DetectorType", bound=type[Detector])
ENTRY_POINT_GROUP = "ood_nc.detectors"
_CLASSES: dict[str, type[Detector]] = {}


def register_detector(cls: DetectorType) -> DetectorType:
    """Class decorator: make the detector known under ``cls.name``.

    Raises:
        UserError: the name is taken by another class, or the class lacks ``name``, ``info`` or valid ``requires``.
    """
    for attribute in ("name", "info", "requires"):
        if not hasattr(cls, attribute):
            raise UserError(f"Detector class {cls.__name__} has no class attribute {attribute!r}.")
    unknown = cls.requires - INPUTS
    if unknown:
        raise UserError(f"Detector {cls.name!r} requires unknown inputs: {', '.join(sorted(unknown))}.")
    known = _CLASSES.setdefault(cls.name, cls)
    if known is not cls and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise UserError(f"Detector name {cls.name!r} is taken by {known.__module__}.{known.__qualname__}.")
    _CLASSES[cls.name] = cls
    return cls


def list_detectors(pattern: str = "*") -> list[str]:
    """Names of all detectors that match a glob, sorted."""
    _load_builtin()
    names = {*_CLASSES, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))}
    return sorted(name for name in names if fnmatchcase(name, pattern))


def detector_class(name: str) -> type[Detector]:
    """The class registered under ``name``.

    Raises:
        UserError: unknown name, or a plug-in that is no detector.
    """
    _load_builtin()
    if name not in _CLASSES:
        for point in entry_points(group=ENTRY_POINT_GROUP, name=name):
            cls = point.load()
            if not (isinstance(cls, type) and issubclass(cls, Detector)):
                raise UserError(f"Plug-in detector {name!r} ({point.value}) is no subclass of Detector.")
            _CLASSES[name] = cls
    if name not in _CLASSES:
        raise UserError(f"Unknown detector {name!r}.{nearest(name, list_detectors())} See list_detectors().")
    return _CLASSES[name]


def create_detector(name: str, **hyperparameters: Any) -> Detector:
    """An unfitted detector by name.

    Args:
        name: as in :func:`list_detectors`.
        **hyperparameters: of that detector; the others keep their defaults.

    Raises:
        UserError: unknown name or hyper-parameter, or a value out of range.
    """
    return detector_class(name)().set_params(**hyperparameters)


@cache
def _load_builtin() -> None:
    package = importlib.import_module("ood_nc.detection.detectors")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
