"""A model and a data set small enough to check by hand."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn


class TinyModel(nn.Module):
    """Two taps of the mean and the sum of an image; the logits come from the second."""

    num_classes = 3
    head_tap = "encoder"

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(torch.randn(4, 12, generator=generator))
        self.head = nn.Parameter(torch.randn(3, 4, generator=generator))
        self.dropout = nn.Dropout(0.5)
        self.images = 0
        self.tap_info = {
            "stem": SimpleNamespace(name="stem", depth=0, pooling="flatten", dim=12, nonnegative=None),
            "encoder": SimpleNamespace(name="encoder", depth=1, pooling="avg", dim=4, nonnegative=None),
        }

    def forward_taps(self, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        self.images += len(images)
        stem = images.flatten(1)
        encoder = self.dropout(stem @ self.first.T)
        return encoder @ self.head.T, {"stem": stem, "encoder": encoder}


class TinyData:
    """Images of random numbers, 3 x 2 x 2; positions in ``broken`` raise."""

    name = "tiny"

    def __init__(self, n: int = 10, broken: tuple[int, ...] = (), *, slow: bool = False) -> None:
        generator = torch.Generator().manual_seed(1)
        self.images = torch.randn(n, 3, 2, 2, generator=generator)
        self.targets = np.arange(n) % 3
        self.ids = tuple(f"{i}.png" for i in range(n))
        self.broken = broken
        self.slow = slow
        self.transform: Any = None
        self.content = "a"

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index in self.broken:
            raise OSError(f"truncated file\n{index}")
        if self.slow and index % 2 == 0:
            time.sleep(0.01)
        return self.images[index], int(self.targets[index])

    def fingerprint(self) -> str:
        return f"{self.content} {len(self)} {self.broken}"


def fake_pandas(monkeypatch: Any) -> None:
    """A pandas whose data frames are the dictionaries that they are made of."""
    import sys
    import types

    module = types.ModuleType("pandas")
    module.DataFrame = dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", module)
