"""The feature bank of one data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class FeatureBank:
    """The features of one data set at every tap, one row a readable image, in data-set order.

    Attributes:
        taps: tap name to features (N, d) on the CPU, in depth order; float32, or as the bank was made.
        logits: the head's output (N, C), float32.
        labels: class indices (N,), int64; -1 where an image has no label.
        ids: the data set's id of each row.
        key: what produced the bank (`BankStore`), empty when it was not cached.
        broken: id and reason of each image that could not be read; they have no row.
        seconds: wall time of the extraction, 0 where none was needed.

    Example:
        >>> import torch
        >>> from ood_nc.data import eval_transform, open_dataset
        >>> from ood_nc.features import extract
        >>> from ood_nc.models import ControlledModel
        >>> model = ControlledModel("test_vit", 10, img_size=32).eval()
        >>> prepare = eval_transform(model.preprocessing)
        >>> images = open_dataset("bundled/digits-id::test").with_transform(prepare)
        >>> bank = extract(model, images)
        >>> bank.labels[:3], bank.ids[0], bank.broken
        (tensor([1, 0, 0]), 'digits-id/test/1/0000', [])
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

    def copies_note(self, tap: str) -> str | None:
        """What to say beside what is fitted on a tap where more than half of the rows repeat another; else None."""
        rows = self.taps[tap].contiguous().view(torch.uint8).numpy()  # NumPy has no bfloat16
        seen: set[int] = set()
        for row in rows:
            if 2 * len(seen) >= len(rows):
                break
            seen.add(hash(row.tobytes()))  # the rows themselves would be the bank once more
        if 2 * len(seen) >= len(rows):
            return None
        distinct = len(seen)
        share = f"{100 * (1 - distinct / len(rows)):.0f} % of the {len(rows)} rows repeat another ({distinct} distinct)"
        return f"{share}: neighbours are copies, and intervals take them for images of their own"

    def select(self, ids: Sequence[str], labels: np.ndarray[Any, Any]) -> FeatureBank:
        """The rows of other images of the same source, without another forward pass.

        Args:
            ids: some of the bank's ids, in any order; those of unreadable images too.
            labels: the class of each (N,), which may be numbered otherwise than here.
        """
        position = {name: row for row, name in enumerate(self.ids)}
        reasons = dict(self.broken)
        readable = [index for index, name in enumerate(ids) if name in position]
        rows = torch.tensor([position[ids[index]] for index in readable], dtype=torch.long)
        return FeatureBank(
            taps={name: features[rows] for name, features in self.taps.items()},
            logits=self.logits[rows],
            labels=torch.as_tensor(np.asarray(labels)[readable], dtype=torch.long),
            ids=tuple(ids[index] for index in readable),
            broken=[(name, reasons[name]) for name in ids if name in reasons],
        )
