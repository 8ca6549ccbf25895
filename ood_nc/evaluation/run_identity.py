"""What was evaluated: the identity at the head of every results document."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import ood_nc
from ood_nc.data import Inputs
from ood_nc.errors import UserError

_PACKAGES = ("torch", "timm", "numpy", "scikit-learn", "faiss-cpu", "faiss-gpu")


def identify(model: Any, inputs: Inputs, aliases: Mapping[str, Sequence[str]], **settings: Any) -> dict[str, Any]:
    """The model, its measured taps with their aliases, the data sets and notes on them, versions, and ``settings``."""
    taps = [
        {"name": name, "depth": info.depth, "pooling": info.pooling, "dim": info.dim}
        | ({"aliases": list(aliases[name])} if aliases[name] else {})
        for name, info in model.tap_info.items()
        if name in aliases
    ]
    names = model.class_names or inputs.id_train.class_names
    return {
        **settings,
        "model": model.backbone_name,
        "spec": _spec(model),
        "taps": taps,
        "head_tap": model.head_tap,
        "head_used": inputs.head_fits,
        "classes": inputs.id_train.num_classes,
        "class_names": None if names is None else list(names),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": _versions(),
        "datasets": inputs.datasets,
        "notes": inputs.notes,
    }


def _spec(model: Any) -> dict[str, Any] | None:
    """What the model can be built from again; None for a module of one's own, whose code no document can hold."""
    try:
        return model.spec()
    except UserError:
        return None


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "ood_nc": ood_nc.__version__}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
