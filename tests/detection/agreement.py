"""The harness of detector tests: a table of problems, and one call that holds a detector against an oracle.

A detector's test file is::

    def oracle(problem, **hyperparameters):      # plain NumPy in float64, as the paper has it, slow and obvious
        return scores_of_problem_queries

    test_agreement = agreement_test("my_detector", oracle, {}, {"temperature": 2.0})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from ood_nc.detection import FeatureDetector, create_detector

Oracle = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Problem:
    """ID train data, queries (half ID, half OOD) and the head, as float32; the oracle reads the float64 copies."""

    name: str
    features: np.ndarray
    labels: np.ndarray
    queries: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    @property
    def head(self) -> tuple[np.ndarray, np.ndarray]:
        return self.weight, self.bias

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Logits in float64, from the float32 numbers."""
        return features.astype(np.float64) @ self.weight.astype(np.float64).T + self.bias.astype(np.float64)

    def exact(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Train features, labels and queries, the features in float64."""
        return self.features.astype(np.float64), self.labels, self.queries.astype(np.float64)


def make(name: str, classes=5, dim=16, n=300, spread=1.0, offset=0.0, relu=False, signal=3.0) -> Problem:
    """Gaussian classes of one spread around random means, a common offset, and as OOD what lies between and beyond."""
    rng = np.random.default_rng(sum(map(ord, name)))
    means = signal * rng.normal(size=(classes, dim))
    labels = np.arange(n) % classes
    features = means[labels] + spread * rng.normal(size=(n, dim))
    inside = means[np.arange(40) % classes] + spread * rng.normal(size=(40, dim))
    outside = signal * rng.normal(size=(40, dim))
    features, queries = (rows + offset for rows in (features, np.concatenate([inside, outside])))
    if relu:
        features, queries = np.maximum(features, 0), np.maximum(queries, 0)
    weight, bias = 0.3 * rng.normal(size=(classes, dim)), rng.normal(size=classes)
    weight += 0.1 * (means - means.mean(axis=0))
    arrays = (array.astype(np.float32) for array in (features, queries, weight, bias))
    features, queries, weight, bias = arrays
    return Problem(name, features, labels, queries, weight, bias)


PROBLEMS = (
    make("plain"),
    make("collapsed", spread=1e-3),
    make("offset", offset=50.0),
    make("relu", relu=True),
    make("wide", classes=4, dim=48, n=30),
    make("two classes", classes=2, dim=6, n=101),
)


def fitted(name: str, problem: Problem, **hyperparameters: Any) -> FeatureDetector:
    """The detector, fitted on everything the problem has."""
    return create_detector(name, **hyperparameters).fit(
        problem.features, problem.labels, logits=problem.logits(problem.features), head=problem.head
    )


def scores_of(detector: FeatureDetector, problem: Problem) -> np.ndarray:
    """Scores of the problem's queries."""
    return detector.score(problem.queries, logits=problem.logits(problem.queries)).numpy()


def assert_agrees(scores: np.ndarray, expected: np.ndarray, *, scale_free: bool, tolerance: float = 1e-5) -> None:
    """Equal to ``tolerance`` relative to the size of the scores, or the same ranking where the scale is free."""
    assert scores.shape == expected.shape
    if scale_free:
        assert spearmanr(scores, expected).statistic >= 0.99999
    else:
        np.testing.assert_allclose(scores, expected, rtol=tolerance, atol=tolerance * float(np.abs(expected).mean()))


def agreement_test(
    name: str,
    oracle: Oracle,
    *variants: Mapping[str, Any],
    scale_free: bool = False,
    tolerance: float = 1e-5,
    problems: Sequence[Problem] = PROBLEMS,
) -> Callable[..., None]:
    """A test of ``name`` against ``oracle(problem, **variant)`` on every problem and every set of hyper-parameters."""

    @pytest.mark.parametrize("problem", problems, ids=lambda problem: problem.name)
    @pytest.mark.parametrize("variant", variants or ({},), ids=lambda variant: str(dict(variant)) or "defaults")
    def test(variant: Mapping[str, Any], problem: Problem) -> None:
        scores = scores_of(fitted(name, problem, **variant), problem)
        assert_agrees(scores, oracle(problem, **variant), scale_free=scale_free, tolerance=tolerance)

    return test


def peer(name: str) -> Any:
    """A class of pytorch-ood, where that is installed."""
    return getattr(pytest.importorskip("pytorch_ood.detector"), name)


def peer_tensors(problem: Problem) -> dict[str, torch.Tensor]:
    """The problem as float32 tensors, for libraries that take those."""
    return {
        "features": torch.from_numpy(problem.features),
        "labels": torch.from_numpy(problem.labels),
        "queries": torch.from_numpy(problem.queries),
        "weight": torch.from_numpy(problem.weight),
        "bias": torch.from_numpy(problem.bias),
        "query_logits": torch.from_numpy(problem.logits(problem.queries)).float(),
    }
