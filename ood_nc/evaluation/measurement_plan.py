"""What every tap is measured with."""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass, field
from typing import Any

import torch

from ood_nc.data import Inputs
from ood_nc.evaluation.fitting import Tuning
from ood_nc.evaluation.results import MakeRow, make_row
from ood_nc.features import FeatureBank
from ood_nc.scores import RankResamples, draw_ranks


@dataclass
class Resamples:
    """Resampled ranks, drawn once a set: sets are independent of each other, detectors on one set share its draw."""

    replicates: int
    seed: int
    drawn: dict[tuple[str, int], RankResamples] = field(default_factory=dict)

    def of(self, name: str, n: int) -> RankResamples:
        """The resamples of a set of ``n`` samples, the same at every call."""
        if (name, n) not in self.drawn:
            self.drawn[name, n] = draw_ranks(n, self.replicates, [self.seed, zlib.crc32(name.encode()), n])
        return self.drawn[name, n]


@dataclass(frozen=True)
class Plan:
    """What every tap is measured with."""

    model: Any
    taps: list[str]
    inputs: Inputs
    banks: dict[str, FeatureBank]
    detectors: list[str]
    input_detectors: list[str]
    ensembles: list[str]
    tuning: Tuning | None
    probes: list[str]
    resamples: Resamples
    seed: int
    device: torch.device
    base: dict[str, Any]
    loading: dict[str, Any]
    feature_map: str

    @property
    def ids(self) -> dict[str, tuple[str, ...]]:
        """By set key, the ids of the readable images."""
        return {key: bank.ids for key, bank in self.banks.items()}

    def size_of(self, tap: str) -> int:
        """Values of ID train at a tap."""
        return self.banks["id_train"].taps[tap].numel()

    def of(self, kind: str, tap: str) -> MakeRow:
        """Makes a row of that kind at a tap."""
        depth = self.model.tap_info[tap].depth if tap in self.model.tap_info else None
        return functools.partial(make_row, {**self.base, "tap": tap, "depth": depth, "kind": kind})
