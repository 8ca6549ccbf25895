"""The detection metrics that results show: one formula each, for the scores as they are and for resamples alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from ood_nc.registry import Registry
from ood_nc.scores.counts import Array, RankCounts

Formula: TypeAlias = Callable[[RankCounts], Array]
Reduction = Literal["sum", "min", "max"]
_REDUCTIONS = {"sum": np.add, "min": np.minimum, "max": np.maximum}


@dataclass(frozen=True)
class ScoreMetric:
    """A detection metric: a share in [0, 1] that depends on ranks alone.

    Attributes:
        definition: one line.
        formula: from `RankCounts` to the part (R,) that a stretch of groups of tied scores contributes.
        reduction: how the parts of all stretches become the value: sum, min or max.

    Example:
        The share of OOD samples that score below every ID sample:

        >>> import numpy as np
        >>> from ood_nc.scores import RankCounts, ScoreMetric, check_metric
        >>> def certain(counts):
        ...     return np.where(counts.id_through == 0, counts.ood_through, 0).max(axis=-1) / counts.m
        >>> metric = ScoreMetric("share of OOD below every ID sample", certain, "max")
        >>> metric(RankCounts(2, 2, np.array([[0, 0, 1, 2]]), np.array([[0, 1, 2, 2]]))).tolist()
        [0.5]
        >>> check_metric(metric)
    """

    definition: str
    formula: Formula
    reduction: Reduction

    def __call__(self, counts: RankCounts) -> Array:
        """The part of a stretch of groups, (R,)."""
        return self.formula(counts)

    def reduce(self, parts: Sequence[Array]) -> Array:
        """The values (R,) from the parts of all stretches."""
        together: Array = parts[0] if len(parts) == 1 else _REDUCTIONS[self.reduction].reduce(parts)
        return together


METRICS: Registry[ScoreMetric] = Registry(
    "detection metric",
    "ood_nc.score_metrics",
    fault=lambda entry: (
        None if getattr(entry, "reduction", None) in _REDUCTIONS else "is no ScoreMetric by sum, min or max"
    ),
    package="ood_nc.scores.metrics",
)
"""Every detection metric by name. Ours are added in the files of ``metrics/``; each stands in every results table."""


def score_metric(name: str, definition: str, reduction: Reduction) -> Callable[[Formula], ScoreMetric]:
    """Function decorator: make a formula on counts the detection metric ``name``, as `ScoreMetric` describes it.

    Raises:
        UserError: the name is taken, or an unknown reduction.

    Example:
        >>> from ood_nc.scores import METRICS, score_metric
        >>> score_metric("auroc", "another", "sum")(lambda counts: counts.id[:, 0])
        Traceback (most recent call last):
        ood_nc.errors.UserError: Detection metric name 'auroc' is taken by ...
    """
    return lambda formula: METRICS.add(name, ScoreMetric(definition, formula, reduction))
