"""The first part of a source's name, up to the slash, and who opens it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from ood_nc.data.bundled import open_bundled
from ood_nc.data.dataset import ImageDataset
from ood_nc.data.hub import open_timm, open_torchvision
from ood_nc.registry import Registry

OpenSource: TypeAlias = Callable[[str, str, "Path | None"], ImageDataset]
"""(name behind the slash, split or "", data root or None) -> data set; a `UserError` where there is none."""

SOURCES: Registry[OpenSource] = Registry(
    "kind of data source",
    "ood_nc.sources",
    fault=lambda entry: None if callable(entry) else "is no function of (name, split, root)",
)
"""Who opens ``KIND/NAME::SPLIT``, by KIND. A folder of that name is reached as ``./KIND``."""


def _bundled(name: str, split: str, root: Path | None) -> ImageDataset:
    """Sets that come with scikit-learn."""
    return open_bundled(name, split)


def _torchvision(name: str, split: str, root: Path | None) -> ImageDataset:
    """Sets of torchvision, already fetched into the data root."""
    return open_torchvision(name, root or Path(), split)


def _timm(kind: str) -> OpenSource:
    def open_set(name: str, split: str, root: Path | None) -> ImageDataset:
        """Sets that timm's create_dataset reads."""
        return open_timm(f"{kind}/{name}", root, split)

    return open_set


SOURCES.add("bundled", _bundled)
SOURCES.add("torchvision", _torchvision)
for _kind in ("hfds", "wds", "tfds"):
    SOURCES.add(_kind, _timm(_kind))
