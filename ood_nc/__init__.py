"""Control neural collapse layer by layer, and measure what it does to OOD detection and transfer.

The names below are loaded on first use, so that importing one room (say ``ood_nc.collapse``) costs only that room.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["ControlledModel", "Detector", "Results", "evaluate"]

_HOME = {
    "ControlledModel": "ood_nc.models",
    "Detector": "ood_nc.deployment",
    "Results": "ood_nc.evaluation",
    "evaluate": "ood_nc.evaluation",
}

if TYPE_CHECKING:
    from ood_nc.deployment import Detector
    from ood_nc.evaluation import Results, evaluate
    from ood_nc.models import ControlledModel


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'ood_nc' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
