"""Banks of a model that only adds to another: no image is forwarded for them again."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TypeAlias

import torch

from ood_nc.features.extraction import Forwarded
from ood_nc.features.store import BankStore
from ood_nc.models import weights_hash

_ROWS = 8192

Derive: TypeAlias = Callable[[dict[str, torch.Tensor]], tuple[torch.Tensor, dict[str, torch.Tensor]]]
"""From the features of one model by tap to the logits and the features by tap of another."""


class DerivedStore(BankStore):
    """Feature banks of one model, computed from those of another that shares its backbone.

    Any other model is forwarded, as in a `BankStore`.

    Args:
        directory: the folder of these banks.
        model: whose banks they are.
        source: the banks of the other; those that are missing are extracted into it.
        original: the other model.
        derive: gives logits and taps of ``model`` for rows of the other's taps.
    """

    def __init__(self, directory: str | Path, model: Any, *, source: BankStore, original: Any, derive: Derive) -> None:
        super().__init__(directory, source.dtype)
        self._model, self._source, self._original, self._derive = model, source, original, derive
        self._hash = weights_hash(original)

    def _batches(
        self, model: Any, dataset: Any, start: int, options: dict[str, Any]
    ) -> Generator[Forwarded, None, None]:
        if model is not self._model:
            yield from super()._batches(model, dataset, start, options)
            return
        bank = self._source.get(self._original, dataset, weights=self._hash, **options)
        broken = dict(bank.broken)
        readable = [position for position, name in enumerate(dataset.ids) if name not in broken]
        row = sum(position < start for position in readable)
        while start < len(dataset):
            chosen = readable[row : row + _ROWS]
            last = row + _ROWS >= len(readable)
            stop = len(dataset) if last else readable[row + _ROWS]
            with torch.inference_mode():
                taps = {name: features[row : row + _ROWS] for name, features in bank.taps.items()}
                logits, taps = self._derive({name: rows.float() for name, rows in taps.items()})
            unread = [(at, broken[dataset.ids[at]]) for at in range(start, stop) if dataset.ids[at] in broken]
            stored = {name: taps[name].to(self.dtype) for name in model.tap_info}
            yield Forwarded(stop, torch.tensor(chosen, dtype=torch.long), stored, logits.float(), unread)
            start, row = stop, row + _ROWS
