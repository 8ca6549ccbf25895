"""Detection metrics of scores that arrive in pieces."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ood_nc.arrays import ArrayLike
from ood_nc.scores.bootstrap import bootstrap_intervals
from ood_nc.scores.counts import Array
from ood_nc.scores.ranking import as_scores, detection_metrics, in_one_type


class ScoreAccumulator:
    """Collects ID and OOD scores batch by batch; its metrics equal those of one call on all of them, bit for bit.

    It keeps the scores (4 or 8 bytes each): exact ranking metrics cannot do with less. Merging the accumulators of
    several processes gives the metrics of all samples, whatever the order.

    Example:
        >>> from ood_nc.scores import ScoreAccumulator
        >>> scores = ScoreAccumulator().update([0.35], [0.1]).update([0.8], [0.4])
        >>> scores.compute()["auroc"]
        0.75
    """

    def __init__(self) -> None:
        self._parts: dict[str, list[Array]] = {"id": [], "ood": []}

    def update(self, id_scores: ArrayLike = (), ood_scores: ArrayLike = ()) -> ScoreAccumulator:
        """Add a batch (copied), either side may be left out; returns itself."""
        for side, scores in (("id", id_scores), ("ood", ood_scores)):
            values = as_scores(scores, f"{side}_scores")
            if len(values):
                self._parts[side].append(values.copy())
        return self

    def merge(self, other: ScoreAccumulator) -> ScoreAccumulator:
        """Add everything another accumulator holds; returns itself."""
        for side, parts in self._parts.items():
            parts.extend(list(other._parts[side]))
        return self

    @property
    def id_scores(self) -> Array:
        """All ID scores so far."""
        return self._joined("id")

    @property
    def ood_scores(self) -> Array:
        """All OOD scores so far."""
        return self._joined("ood")

    def compute(self) -> dict[str, float]:
        """:func:`ood_nc.scores.detection_metrics` of all scores so far.

        Raises:
            EmptySideError, NanScoreError: a side holds no scores, or NaN.
        """
        return detection_metrics(self.id_scores, self.ood_scores)

    def intervals(
        self, metrics: Sequence[str] | None = None, replicates: int = 500, confidence: float = 0.95, seed: int = 0
    ) -> dict[str, tuple[float, float]]:
        """:func:`ood_nc.scores.bootstrap_intervals` of all scores so far."""
        return bootstrap_intervals(self.id_scores, self.ood_scores, metrics, replicates, confidence, seed)

    def _joined(self, side: str) -> Array:
        parts = self._parts[side]
        if len(parts) > 1:
            named = {f"{side}_scores[{k}]": part for k, part in enumerate(parts)}
            self._parts[side] = parts = [np.concatenate(in_one_type(**named))]
        return parts[0] if parts else np.empty(0)
