"""From scores to decisions: thresholds and p-values chosen on held-out ID data, with finite-sample guarantees.

The held-out scores must come from ID samples the detector was not fitted on, and never from OOD. If they and a new ID
score are exchangeable, everything here holds exactly, whatever the detector (split conformal prediction; Vovk et al.,
Algorithmic Learning in a Random World, 2005).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import betaincinv, gammaln
from torch import Tensor

from ood_nc.arrays import ArrayLike, as_labels, as_tensor
from ood_nc.errors import UserError
from ood_nc.scores.counts import Array
from ood_nc.scores.errors import EmptySideError, NanScoreError
from ood_nc.scores.ranking import as_scores, in_one_type

_HAIR = 1 + 1e-12
"""Where the step-up rule meets its bound exactly, rounding must not decide."""


@dataclass(frozen=True)
class Threshold:
    """Accept a sample as in-distribution where its score is at least ``value``.

    Attributes:
        value: the threshold; -inf where too few held-out samples allow any rejection at this ``tpr``.
        tpr: the share of ID samples that is accepted at least, on average over held-out sets.
        samples: held-out ID samples it was chosen on.
        false_alarms_per_10000: ID images rejected out of 10,000, expected (fewer where scores tie).
        low: lower end of the interval of that number over held-out sets of this size.
        high: upper end.

    Example:
        >>> from ood_nc.scores import choose_threshold
        >>> threshold = choose_threshold([0.1 * k for k in range(1, 100)], tpr=0.9)
        >>> threshold.accept([0.5, 1.5]).tolist()
        [False, True]
    """

    value: float
    tpr: float
    samples: int
    false_alarms_per_10000: float
    low: float
    high: float

    def accept(self, scores: ArrayLike) -> Tensor:
        """Which samples are accepted as in-distribution, (B,) bool."""
        # torch would compare integers, and a float32 score, with the threshold rounded to float32.
        return as_tensor(scores, "scores").double() >= self.value


def choose_threshold(held_out: ArrayLike, tpr: float = 0.95, confidence: float = 0.95) -> Threshold:
    """The highest threshold that accepts a fresh ID sample with probability at least ``tpr``.

    It is the j-th smallest held-out score, j = floor((1 - tpr)(n + 1)). The false alarm rate it will have is
    Beta(j, n + 1 - j) distributed over held-out sets (exactly so for scores without ties), which gives the interval.

    Args:
        held_out: ID scores (n,), larger = more in-distribution.
        tpr: in (0, 1).
        confidence: of the interval of false alarms, in (0, 1).

    Raises:
        EmptySideError: no scores.
        NanScoreError: a score is NaN.
        UserError: ``tpr`` or ``confidence`` out of range.

    Example:
        >>> from ood_nc.scores import choose_threshold
        >>> threshold = choose_threshold(range(1, 100), tpr=0.9)
        >>> threshold.value, threshold.false_alarms_per_10000
        (10.0, 1000.0)
    """
    if not (0 < tpr < 1 and 0 < confidence < 1):
        raise UserError(f"tpr and confidence must be in (0, 1), got {tpr} and {confidence}.")
    # A threshold is a float.
    ordered = in_one_type(held_out=_sorted_calibration(held_out), threshold=np.empty(0))[0]
    n = len(ordered)
    rejected = _allowed_rejections(1 - tpr, n)
    if rejected == 0:
        return Threshold(-np.inf, tpr, n, 0.0, 0.0, 0.0)
    tail = (1 - confidence) / 2
    low, high = betaincinv(rejected, n + 1 - rejected, [tail, 1 - tail])
    return Threshold(
        value=float(ordered[rejected - 1]),
        tpr=tpr,
        samples=n,
        false_alarms_per_10000=1e4 * rejected / (n + 1),
        low=1e4 * float(low),
        high=1e4 * float(high),
    )


def choose_class_thresholds(
    held_out: ArrayLike, classes: ArrayLike, tpr: float = 0.95, confidence: float = 0.95
) -> dict[int, Threshold]:
    """A threshold for each class, so that the guarantee of :func:`choose_threshold` holds within every class.

    Args:
        held_out: ID scores (n,).
        classes: *predicted* class of each (n,): a new sample's true class is not known when it is judged.
        tpr: in (0, 1).
        confidence: of the interval of false alarms.

    Returns:
        Class index to threshold, for the classes that occur.

    Example:
        >>> from ood_nc.scores import choose_class_thresholds
        >>> found = choose_class_thresholds([1.0, 2.0, 3.0, 10.0, 20.0, 30.0], [0, 0, 0, 1, 1, 1], tpr=0.75)
        >>> found[0].value, found[1].value
        (1.0, 10.0)
    """
    scores = as_scores(held_out, "held_out")
    groups = as_labels(classes, len(scores), "classes").cpu().numpy()
    return {int(c): choose_threshold(scores[groups == c], tpr, confidence) for c in np.unique(groups)}


def conformal_p_values(
    scores: ArrayLike,
    held_out: ArrayLike,
    *,
    classes: ArrayLike | None = None,
    held_out_classes: ArrayLike | None = None,
) -> Tensor:
    """Conformal p-value of each score: (1 + #{held-out <= score}) / (n + 1); small means out of distribution.

    For a fresh ID sample P(p <= t) <= t for every t, ties included. With classes the comparison is within the class,
    and the guarantee holds class by class; a class without held-out samples gives 1, no evidence at all.

    Args:
        scores: (B,).
        held_out: ID scores (n,) that the detector was not fitted on.
        classes: predicted class of each score (B,).
        held_out_classes: predicted class of each held-out score (n,).

    Returns:
        (B,) float64 in (0, 1], on the CPU.

    Raises:
        EmptySideError: no held-out scores.
        NanScoreError: a score is NaN.
        UserError: only one of the two class vectors was given.

    Example:
        >>> from ood_nc.scores import conformal_p_values
        >>> conformal_p_values([0.0, 2.5, 9.0], [1.0, 2.0, 3.0]).tolist()
        [0.25, 0.75, 1.0]
    """
    if (classes is None) != (held_out_classes is None):
        raise UserError("Give both classes and held_out_classes, or neither.")
    queries, ordered = _prepared(scores, held_out)
    if classes is None or held_out_classes is None:
        return torch.from_numpy(_p_values(queries, ordered))
    groups = as_labels(classes, len(queries), "classes").cpu().numpy()
    calibration = as_scores(held_out, "held_out").astype(ordered.dtype)
    calibration_groups = as_labels(held_out_classes, len(calibration), "held_out_classes").cpu().numpy()
    result = np.ones(len(queries))
    for c in np.unique(groups):
        result[groups == c] = _p_values(queries[groups == c], np.sort(calibration[calibration_groups == c]))
    return torch.from_numpy(result)


def conditional_p_values(scores: ArrayLike, held_out: ArrayLike, delta: float = 0.1) -> Tensor:
    """Conformal p-values that hold for the held-out set at hand, not only on average over held-out sets.

    With probability at least 1 - ``delta`` over held-out sets, P(p <= t | held-out) <= t for every t at once; given the
    held-out set they are independent for independent samples. They are larger than :func:`conformal_p_values`, of which
    they are a function: j/(n + 1) becomes b_j, with the Simes bound on uniform order statistics of Bates, Candes,
    Lei, Romano & Sesia (Testing for outliers with conformal p-values, Annals of Statistics, 2023, section 3), k = n/2:
    b_(n+1-i) = 1 - delta^(1/k) (i (i-1) ... (i-k+1) / (n (n-1) ... (n-k+1)))^(1/k).

    Args:
        scores: (B,).
        held_out: ID scores (n,) that the detector was not fitted on, independent of each other.
        delta: share of held-out sets for which this may fail, in (0, 1).

    Returns:
        (B,) float64 in (0, 1], on the CPU.

    Raises:
        EmptySideError: no held-out scores.
        NanScoreError: a score is NaN.
        UserError: ``delta`` out of range.

    Example:
        >>> from ood_nc.scores import conditional_p_values, conformal_p_values
        >>> held_out = range(100)
        >>> p = conditional_p_values([-1.0, 50.0], held_out)
        >>> (p >= conformal_p_values([-1.0, 50.0], held_out)).all().item()
        True
    """
    if not 0 < delta < 1:
        raise UserError(f"delta must be in (0, 1), got {delta}.")
    levels, n = _levels(scores, held_out)
    k = max(1, n // 2)
    i = n + 1 - np.arange(n + 2)
    adjusted = np.ones(n + 2)
    bounded = (i >= k) & (i <= n)
    log_products = gammaln(i[bounded] + 1) - gammaln(i[bounded] - k + 1)
    adjusted[bounded] = -np.expm1((np.log(delta) + log_products - gammaln(n + 1) + gammaln(n - k + 1)) / k)
    return torch.from_numpy(adjusted[levels])


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
        EmptySideError: no held-out scores.
        NanScoreError: a score is NaN.
        UserError: ``level`` or ``storey`` out of range.

    Example:
        >>> from ood_nc.scores import conformal_discoveries
        >>> conformal_discoveries([-3.0, -2.0, 50.0], range(100), level=0.05).tolist()
        [True, True, False]
    """
    levels, n = _levels(scores, held_out)
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
        first = max(1, _allowed_rejections(storey, self.held_out_samples))
        return float(1 + self._counts[first:].sum()) / (1 - first / bins)

    def _add(self, levels: Array) -> None:
        self._counts += np.bincount(levels, minlength=len(self._counts))


def _levels(scores: ArrayLike, held_out: ArrayLike) -> tuple[Array, int]:
    """1 + #{held-out <= score} of each score, and the number of held-out scores."""
    queries, ordered = _prepared(scores, held_out)
    return 1 + np.searchsorted(ordered, queries, "right"), len(ordered)


def _prepared(scores: ArrayLike, held_out: ArrayLike) -> tuple[Array, Array]:
    """Scores, and held-out scores in ascending order, in one dtype."""
    queries = as_scores(scores, "scores")
    _refuse_nan(queries, "scores")
    queries, ordered = in_one_type(scores=queries, held_out=_sorted_calibration(held_out))
    return queries, ordered


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise UserError(f"level must be in (0, 1), got {level}.")


def _p_values(queries: Array, ordered: Array) -> Array:
    values: Array = (1 + np.searchsorted(ordered, queries, "right")) / (len(ordered) + 1)
    return values


def _allowed_rejections(alpha: float, n: int) -> int:
    # 1 - 0.95 is a hair above 0.05 in floating point; a hair below must not cost a whole sample.
    return int(np.floor(alpha * (n + 1) + 1e-9))


def _sorted_calibration(held_out: ArrayLike) -> Array:
    values = as_scores(held_out, "held_out")
    if not len(values):
        raise EmptySideError(0, 0, "held-out ID")
    _refuse_nan(values, "held_out")
    return np.sort(values)


def _refuse_nan(values: Array, name: str) -> None:
    where = np.flatnonzero(np.isnan(values))
    if len(where):
        raise NanScoreError(name, len(where), int(where[0]), len(values))
