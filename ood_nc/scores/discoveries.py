"""Which samples of a batch or a stream to call out-of-distribution, with a bound on the share of false calls."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ood_nc.arrays import ArrayLike
from ood_nc.errors import UserError
from ood_nc.scores.counts import Array
from ood_nc.scores.ranking import as_scores
from ood_nc.scores.thresholds import allowed_rejections, conformal_levels

_HAIR = 1 + 1e-12
"""Where the step-up rule meets its bound exactly, rounding must not decide."""


def benjamini_hochberg(p_values: ArrayLike, level: float = 0.05) -> Tensor:
    """Which samples of a batch to call out-of-distribution with the false discovery rate at most ``level``.

    The step-up rule of Benjamini & Hochberg (1995). On conformal p-values of one held-out set the guarantee stands,
    although they depend on each other (Bates et al., Testing for outliers with conformal p-values, 2023).

    Args:
        p_values: (B,) in [0, 1].
        level: expected share of ID samples among those called OOD, in (0, 1).

    Returns:
        (B,) bool, True = out of distribution.

    Raises:
        UserError: ``level`` or a p-value out of range.

    Example:
        >>> from ood_nc.scores import benjamini_hochberg
        >>> benjamini_hochberg([0.001, 0.02, 0.5, 0.9], level=0.05).tolist()
        [True, True, False, False]
    """
    values = as_scores(p_values, "p_values").astype(np.float64)
    _check_level(level)
    if not ((values >= 0) & (values <= 1)).all():
        raise UserError("p_values must lie in [0, 1].")
    ordered = np.sort(values)
    passing = np.flatnonzero(ordered <= level * _HAIR * np.arange(1, len(values) + 1) / max(len(values), 1))
    cut = ordered[passing[-1]] if len(passing) else -1.0
    return torch.from_numpy(values <= cut)


def conformal_discoveries(
    scores: ArrayLike, held_out: ArrayLike, level: float = 0.05, *, storey: float | None = None
) -> Tensor:
    """Which samples of a batch to call out-of-distribution, by counting scores; false discovery rate at most ``level``.

    Called are the scores <= t for the largest t at which B pi0 (1 + #{held-out <= t}) / (n + 1), the number of ID
    samples expected among them, is at most ``level`` times their number. With pi0 = 1 that is
    :func:`benjamini_hochberg` on :func:`conformal_p_values` (Mary & Roquain, Semi-supervised multiple testing, 2022).

    Args:
        scores: (B,), larger = more in-distribution.
        held_out: ID scores (n,) that the detector was not fitted on.
        level: expected share of ID samples among those called OOD, in (0, 1).
        storey: lambda in (0, 1): estimate the share of ID samples pi0 from the p-values of at least lambda (rounded
            down to a multiple of 1/(n + 1), where the guarantee holds: Bates et al., 2023), for more power
            where many samples are OOD. None: pi0 = 1.

    Returns:
        (B,) bool, True = out of distribution.

    Raises:
        EmptySideError, NanScoreError: no held-out scores, or NaN.
        UserError: ``level`` or ``storey`` out of range.

    Example:
        >>> from ood_nc.scores import conformal_discoveries
        >>> conformal_discoveries([-3.0, -2.0, 50.0], range(100), level=0.05).tolist()
        [True, True, False]
    """
    levels, n = conformal_levels(scores, held_out)
    counter = DiscoveryCounter(n)
    counter._add(levels)
    return torch.from_numpy(levels / (n + 1) <= counter.cut(level, storey=storey))


class DiscoveryCounter:
    """:func:`conformal_discoveries` over a stream: p-values in, batch by batch; out the largest to call OOD.

    It keeps one count for each of the n + 1 values a conformal p-value can take, however many samples pass.

    Args:
        held_out_samples: n, the number of held-out scores behind the p-values.

    Raises:
        UserError: n is not at least 1.

    Example:
        >>> from ood_nc.scores import DiscoveryCounter, conformal_p_values
        >>> counter = DiscoveryCounter(held_out_samples=100)
        >>> for batch in ([-3.0, -2.0], [50.0]):
        ...     _ = counter.update(conformal_p_values(batch, range(100)))
        >>> round(counter.cut(level=0.05), 4)
        0.0099
    """

    def __init__(self, held_out_samples: int) -> None:
        if held_out_samples < 1:
            raise UserError(f"held_out_samples must be at least 1, got {held_out_samples}.")
        self.held_out_samples = held_out_samples
        self._counts = np.zeros(held_out_samples + 2, dtype=np.int64)

    def __len__(self) -> int:
        """Samples counted so far."""
        return int(self._counts.sum())

    def update(self, p_values: ArrayLike) -> DiscoveryCounter:
        """Count the :func:`conformal_p_values` of more samples (B,); others count at the next multiple of 1/(n + 1).

        Raises:
            UserError: a p-value is outside (0, 1].
        """
        values = as_scores(p_values, "p_values").astype(np.float64)
        if not ((values > 0) & (values <= 1)).all():
            raise UserError("p_values must lie in (0, 1], as conformal p-values do.")
        levels = np.ceil(values * (self.held_out_samples + 1) - 1e-6).astype(np.int64)
        self._add(np.maximum(levels, 1))
        return self

    def cut(self, level: float = 0.05, *, storey: float | None = None) -> float:
        """The largest p-value to call out-of-distribution, 0 where there is none; arguments as above.

        Raises:
            UserError: ``level`` or ``storey`` out of range.
        """
        _check_level(level)
        expected = np.arange(len(self._counts)) / (self.held_out_samples + 1)
        expected *= len(self) if storey is None else self._estimated_id(storey)
        called = np.cumsum(self._counts)
        passing = np.flatnonzero((expected <= level * _HAIR * called) & (self._counts > 0))
        return float(passing[-1] / (self.held_out_samples + 1)) if len(passing) else 0.0

    def _estimated_id(self, storey: float) -> float:
        if not 0 < storey < 1:
            raise UserError(f"storey must be in (0, 1), got {storey}.")
        bins = self.held_out_samples + 1
        first = max(1, allowed_rejections(storey, self.held_out_samples))
        return float(1 + self._counts[first:].sum()) / (1 - first / bins)

    def _add(self, levels: Array) -> None:
        self._counts += np.bincount(levels, minlength=len(self._counts))


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise UserError(f"level must be in (0, 1), got {level}.")
