"""Scores that several samples share."""

from __future__ import annotations

import numpy as np

from ood_nc.arrays import ArrayLike
from ood_nc.scores.ranking import sort_scores

_MOST = 0.5


def tie_note(id_scores: ArrayLike, ood_scores: ArrayLike) -> str | None:
    """What to say beside metrics of scores of which more than half are shared by several samples; else None.

    Such a score ranks few of the samples: AUROC counts a tie as half, and error rates can move in large steps only.

    Raises:
        EmptySideError, NanScoreError: a side holds no scores, or NaN.

    Example:
        >>> from ood_nc.scores import tie_note
        >>> tie_note([1.0, 1.0, 1.0, 0.5], [1.0, 0.1])
        '67 % of the 6 scores are shared by several samples (3 distinct): AUROC counts ties as half, ...'
        >>> tie_note([1.0, 0.9, 0.8], [0.7, 0.1])
    """
    counts = np.unique(np.concatenate(sort_scores(id_scores, ood_scores)), return_counts=True)[1]
    total = int(counts.sum())
    shared = float(counts[counts > 1].sum() / total)
    if shared <= _MOST:
        return None
    what = f"{100 * shared:.0f} % of the {total} scores are shared by several samples ({len(counts)} distinct)"
    return f"{what}: AUROC counts ties as half, error rates move in steps"
