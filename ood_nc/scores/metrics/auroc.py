"""Area under the ROC curve."""

from __future__ import annotations

from ood_nc.arrays import ArrayLike
from ood_nc.scores.counts import Array, RankCounts
from ood_nc.scores.ranking import measure
from ood_nc.scores.registry import score_metric


@score_metric("auroc", "P(ID score > OOD score) + P(tie) / 2", "sum")
def area(counts: RankCounts) -> Array:
    """The Mann-Whitney statistic: of every ID sample, the OOD samples below it and half of those beside it."""
    at = counts.at_id
    below = at.id_sum(at.ood_below)
    # Where nothing ties they are one array.
    through = below if at.ood_through is at.ood_below else at.id_sum(at.ood_through)
    return (below + through) / (2 * counts.n * counts.m)


def auroc(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Area under the ROC curve: P(id > ood) + 0.5 P(tie), the Mann-Whitney statistic.

    Args:
        id_scores: scores of in-distribution samples, shape (n,).
        ood_scores: scores of out-of-distribution samples, shape (m,).

    Raises:
        EmptySideError, NanScoreError: a side holds no scores, or NaN.

    Example:
        >>> from ood_nc.scores import auroc
        >>> auroc([0.35, 0.8], [0.1, 0.4])
        0.75
    """
    return measure(id_scores, ood_scores, area)
