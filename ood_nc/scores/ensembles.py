"""One score from several: taps, detectors, or both, brought to a common scale on held-out ID.

The members' held-out scores are the only reference, so members may have any scale and any unit; only the direction is
shared: larger = more in-distribution. They must come from ID samples that no member was fitted on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from scipy.stats import chi2
from torch import Tensor

from ood_nc.arrays import ArrayLike, as_matrix, as_tensor
from ood_nc.errors import NotFittedError, UserError, nearest
from ood_nc.scores.counts import Array
from ood_nc.scores.errors import EmptySideError, refuse_nan

Method = Literal["rank", "zscore", "fisher", "brown"]
_FORMAT = 1
_LARGEST = 1e300
"""Finite z-scores beyond this count as this, so that opposite ones cannot overflow to NaN."""


class ScoreEnsemble:
    """Combine the scores of m members into one.

    ``rank``: weighted mean of the members' shares of held-out ID below the score, in [0, 1]. The share is that of the
    empirical distribution (ties count half), linear between neighbouring held-out scores. Below the lowest it falls on
    towards 0, beyond the highest it rises towards 1, hyperbolically in standard deviations, so that far samples stay in
    order and none can outvote the other members by its size.

    ``zscore``: weighted mean of (score - mean) / standard deviation of held-out ID. A member that is constant there
    contributes 0.

    ``fisher``: minus Fisher's statistic, 2 sum_j w_j log p_j, with the p-values interpolated as above: 1/(n + 1) beyond
    the lowest held-out score, 1 beyond the highest. Its :meth:`p_values` take the members for independent. Members that
    see the same image are not, and p-values come out too small.

    ``brown``: the same ranking; :meth:`p_values` allow for the dependence of the members (Brown, Biometrics 31, 1975;
    Kost & McDermott, Statistics & Probability Letters 60, 2002): the statistic is compared with a scaled chi-square of
    its mean and variance, the correlations of log p taken from held-out ID as they are (Poole et al., Bioinformatics
    32, 2016); a variance below that of independent members counts as theirs. An approximation; it is exact for
    independent and for equal members.

    Args:
        method: as above.
        weights: positive, one for each member; only their ratios matter. None: equal.

    Raises:
        UserError: unknown method, or a weight that is not positive.

    Example:
        >>> import numpy as np
        >>> from ood_nc.scores import ScoreEnsemble
        >>> held_out = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]])
        >>> ScoreEnsemble("rank").fit(held_out).score([[4.0, 40.0], [1.0, 10.0], [4.0, 10.0]]).tolist()
        [0.875, 0.125, 0.5]
    """

    def __init__(self, method: Method = "rank", weights: Sequence[float] | None = None) -> None:
        if method not in get_args(Method):
            raise UserError(
                f"Unknown ensemble method {method!r}: one of {', '.join(get_args(Method))}."
                f"{nearest(method, get_args(Method))}"
            )
        if weights is not None and not all(0 < weight < float("inf") for weight in weights):
            raise UserError(f"Ensemble weights must be positive and finite, got {list(weights)}.")
        self.method = method
        self.weights = None if weights is None else [float(weight) for weight in weights]
        self.sorted_: Tensor | None = None
        self.variance_: float | None = None

    def fit(self, held_out_scores: ArrayLike) -> ScoreEnsemble:
        """Learn the members' scales.

        Args:
            held_out_scores: (n, m), n at least 2, one column per member; infinite scores are allowed.

        Raises:
            EmptySideError: no samples.
            NanScoreError: a score is NaN.
            UserError: not (n, m), fewer than 2 samples, or not one weight per member.
        """
        scores = _as_columns(held_out_scores, "held_out_scores")
        if not len(scores):
            raise EmptySideError(0, 0, "held-out ID")
        if len(scores) < 2 or not scores.shape[1]:
            raise UserError(f"An ensemble needs at least 2 held-out samples and 1 member, got {scores.shape}.")
        if self.weights is not None and len(self.weights) != scores.shape[1]:
            raise UserError(f"There are {len(self.weights)} weights for {scores.shape[1]} members.")
        self.sorted_ = torch.from_numpy(np.sort(scores, axis=0))
        self.variance_ = self._variance(scores)
        return self

    def score(self, scores: ArrayLike) -> Tensor:
        """The combined score, larger = more in-distribution.

        Args:
            scores: (B, m), members in the order of ``fit``. Infinite scores are allowed; under ``zscore`` a member's
                -inf makes the result -inf, whatever the others say.

        Returns:
            (B,) float64 on the CPU.

        Raises:
            NotFittedError: ``fit`` was not called.
            NanScoreError: a score is NaN.
            UserError: not (B, m).
        """
        columns, held_out = self._inputs(scores)
        weights = self._weights()
        pairs = zip(columns.T, held_out.T, strict=True)
        if self.method == "zscore":
            members = np.stack([_standardized(column, ordered) for column, ordered in pairs], axis=1)
            result = np.clip(members, -_LARGEST, _LARGEST) @ (weights / weights.sum())
            result[(members == np.inf).any(axis=1)] = np.inf
            result[(members == -np.inf).any(axis=1)] = -np.inf
            return torch.from_numpy(result)
        ranks = np.stack([_interpolated_rank(column, ordered) for column, ordered in pairs], axis=1)
        if self.method == "rank":
            return torch.from_numpy(ranks @ (weights / weights.sum()))
        n = len(held_out)
        return torch.from_numpy(2 * np.log((1 + n * ranks) / (n + 1)) @ weights)

    __call__ = score

    def p_values(self, scores: ArrayLike) -> Tensor:
        """Combined p-value of "this sample is ID", small = out-of-distribution; ``fisher`` and ``brown`` only.

        Made of the members' conformal p-values against held-out ID.

        Args:
            scores: (B, m).

        Returns:
            (B,) float64 in [0, 1].

        Raises:
            NotFittedError: ``fit`` was not called.
            NanScoreError: a score is NaN.
            UserError: not (B, m), or a method without p-values.
        """
        if self.method not in ("fisher", "brown"):
            raise UserError(f"Ensemble method {self.method!r} gives no p-values: take 'brown'.")
        columns, held_out = self._inputs(scores)
        weights = self._weights()
        below = [
            np.searchsorted(ordered, column, "right") for column, ordered in zip(columns.T, held_out.T, strict=True)
        ]
        logs = np.log((1 + np.stack(below, axis=1)) / (len(held_out) + 1))
        mean = 2 * weights.sum()
        variance = self.variance_ if self.method == "brown" else 4 * (weights**2).sum()
        # A chi-square of f degrees times c has mean c f and variance 2 c^2 f.
        scale = variance / (2 * mean)
        return torch.from_numpy(chi2.sf(-2 * (logs @ weights) / scale, mean / scale))

    def state_dict(self) -> dict[str, Any]:
        """Method, weights and everything learnt, as tensors and plain values.

        Raises:
            NotFittedError: ``fit`` was not called.
        """
        if self.sorted_ is None:
            raise NotFittedError("ensemble")
        return {
            "ensemble": "scores",
            "format": _FORMAT,
            "parameters": {"method": self.method, "weights": self.weights},
            "fitted": {"sorted_": self.sorted_, "variance_": self.variance_},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> ScoreEnsemble:
        """Become the ensemble whose :meth:`state_dict` this is.

        Raises:
            UserError: the state is of something else, or of another format.
        """
        if state.get("ensemble") != "scores" or state.get("format") != _FORMAT:
            raise UserError(f"This is no state of a score ensemble in format {_FORMAT}.")
        loaded = ScoreEnsemble(**state["parameters"])
        self.method, self.weights = loaded.method, loaded.weights
        self.sorted_, self.variance_ = state["fitted"]["sorted_"], state["fitted"]["variance_"]
        return self

    def __repr__(self) -> str:
        return f"ScoreEnsemble(method={self.method!r}, weights={self.weights!r})"

    def _inputs(self, scores: ArrayLike) -> tuple[Array, Array]:
        if self.sorted_ is None:
            raise NotFittedError("ensemble")
        columns = _as_columns(scores, "scores")
        if columns.shape[1] != self.sorted_.shape[1]:
            raise UserError(f"scores has {columns.shape[1]} members, the ensemble {self.sorted_.shape[1]}.")
        return columns, self.sorted_.numpy()

    def _weights(self) -> Array:
        assert self.sorted_ is not None
        return np.ones(self.sorted_.shape[1]) if self.weights is None else np.array(self.weights)

    def _variance(self, scores: Array) -> float:
        """Variance of the statistic -2 sum_j w_j log p_j over ID samples; (m,) members dependent as held-out ID is."""
        weights = self._weights()
        # A held-out sample's conformal p-value against the others.
        ranks = np.stack([np.searchsorted(np.sort(column), column, "right") for column in scores.T], axis=1)
        logs = np.log(ranks / len(scores))
        logs -= logs.mean(axis=0)
        norms = np.sqrt((logs**2).sum(axis=0))
        logs /= np.where(norms > 0, norms, 1)
        correlation = logs.T @ logs
        np.fill_diagonal(correlation, 1)
        # -2 log of a uniform number has variance 4. Less in sum than of independent members would make p-values bolder.
        return float(4 * max(weights @ correlation @ weights, weights @ weights))


def _as_columns(values: ArrayLike, name: str) -> Array:
    tensor = as_tensor(values, name)
    if tensor.ndim != 2:
        raise UserError(f"{name} must have shape (samples, members), got {tuple(tensor.shape)}.")
    array: Array = as_matrix(tensor, name).double().cpu().numpy()
    refuse_nan(array, name)
    return array


def _spread(ordered: Array) -> tuple[float, float]:
    """Mean and standard deviation of the finite values of an ascending vector; deviation 0 where they are all equal."""
    finite = ordered[np.isfinite(ordered)]
    if not len(finite) or finite[0] == finite[-1]:
        return (float(finite[0]) if len(finite) else 0.0), 0.0
    # Scores near the largest number would overflow when squared.
    size = np.abs(finite[[0, -1]]).max()
    return float((finite / size).mean() * size), float((finite / size).std() * size)


def _standardized(values: Array, ordered: Array) -> Array:
    mean, deviation = _spread(ordered)
    if deviation == 0:
        return np.zeros(len(values))
    with np.errstate(over="ignore"):
        return (values - mean) / deviation


def _interpolated_rank(values: Array, ordered: Array) -> Array:
    """Share of ``ordered`` below each value, ties half: piecewise linear, strictly increasing on the whole line."""
    points, first, counts = np.unique(ordered, return_index=True, return_counts=True)
    shares = (first + counts / 2) / len(ordered)
    finite = np.isfinite(points)
    floor = shares[0] if points[0] == -np.inf else 0.0
    ceiling = shares[-1] if points[-1] == np.inf else 1.0
    if not finite.any():
        # The step between the infinities, wherever it is.
        points, shares = np.zeros(1), np.array([(ordered == -np.inf).mean()])
    else:
        points, shares = points[finite], shares[finite]
    scale = _spread(ordered)[1] or 1.0
    result: Array = np.interp(values, points, shares)
    with np.errstate(over="ignore"):
        low, high = values < points[0], values > points[-1]
        result[low] = floor + (shares[0] - floor) / (1 + (points[0] - values[low]) / scale)
        result[high] = ceiling - (ceiling - shares[-1]) / (1 + (values[high] - points[-1]) / scale)
    return result
