"""The feature bank of one data set."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class FeatureBank:
    """The features of one data set at every tap, one row a readable image, in data-set order.

    Attributes:
        taps: tap name to features (N, d), float32 on the CPU, in depth order.
        logits: the head's output (N, C), float32.
        labels: class indices (N,), int64; -1 where an image has no label.
        ids: the data set's id of each row.
        key: what produced the bank (`BankStore`), empty when it was not cached.
        broken: id and reason of each image that could not be read; they have no row.
        seconds: wall time of the extraction.
    """

    taps: dict[str, torch.Tensor]
    logits: torch.Tensor
    labels: torch.Tensor
    ids: tuple[str, ...]
    key: str = ""
    broken: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.ids)
