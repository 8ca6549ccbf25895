from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import gaussian_kde
from sklearn.neighbors import KernelDensity

from ood_nc.detection import create_detector
from ood_nc.errors import UserError
from tests.detection.agreement import PROBLEMS, agreement_test, fitted, scores_of


def oracle(problem, dim=None, explained_variance=None, bandwidth=None):
    train, _, queries = problem.exact()
    mean = train.mean(axis=0)
    _, singular, directions = np.linalg.svd(train - mean, full_matrices=False)
    if dim is None:
        explained = np.cumsum(singular**2) / np.sum(singular**2)
        dim = int(np.argmax(explained >= (explained_variance or 0.9))) + 1
    deviations = singular[:dim] / np.sqrt(len(train))
    whitened = [(rows - mean) @ directions[:dim].T / deviations for rows in (train, queries)]
    bandwidth = len(train) ** (-1 / (dim + 4)) if bandwidth is None else bandwidth
    # A tree at its tightest tolerance; the whitening's determinant brings the density back to the features' units.
    estimate = KernelDensity(bandwidth=bandwidth, rtol=0, atol=0).fit(whitened[0])
    return estimate.score_samples(whitened[1]) - np.log(deviations).sum()


test_agreement = agreement_test(
    "kde", oracle, {}, {"dim": 3}, {"explained_variance": 0.6}, {"bandwidth": 0.3, "dim": 2}
)


def test_as_scipy():
    # SciPy's covariance is over N - 1, so its bandwidth is a little larger.
    problem = PROBLEMS[5]
    train, _, queries = problem.exact()
    factor = len(train) ** (-1 / (6 + 4))
    estimate = gaussian_kde(train.T, bw_method=factor)
    scores = scores_of(fitted("kde", problem, dim=6, bandwidth=factor * np.sqrt(101 / 100)), problem)
    near = estimate.logpdf(queries.T) > -200
    assert near.sum() > 20
    np.testing.assert_allclose(scores[near], estimate.logpdf(queries.T)[near], rtol=1e-5)


def test_blocks_of_the_bank_change_nothing(monkeypatch):
    problem = PROBLEMS[0]
    detector = fitted("kde", problem)
    expected = scores_of(detector, problem)
    monkeypatch.setattr("ood_nc.detection.kit.densities.BLOCK", 70)
    np.testing.assert_allclose(scores_of(detector, problem), expected, rtol=1e-9)


def test_the_bank_is_a_seeded_subset():
    problem = PROBLEMS[0]
    first, again, other = (fitted("kde", problem, bank_size=40, seed=seed).bank_ for seed in (0, 0, 1))
    assert len(first) == 40
    assert (first == again).all()
    assert not (first == other).all()
    assert (fitted("kde", problem, bank_size=None).bank_ == fitted("kde", problem).bank_).all()


def test_far_away_the_density_is_finite_and_ranks():
    problem = PROBLEMS[0]
    detector = fitted("kde", problem)
    scores = detector.score(problem.queries[:1] * np.array([[10.0], [100.0], [1000.0]]))
    assert (scores.diff() < 0).all()
    assert scores.isfinite().all()


def test_dead_and_copied_columns():
    # Field case 23: the copy doubles a variance, but adds no component of no variance.
    problem = PROBLEMS[0]
    detector = create_detector("kde", dim=40).fit(np.column_stack([problem.features, problem.features[:, :3]]))
    assert detector.dim_ == 16

    def widen(rows):
        return np.column_stack([rows, np.zeros(len(rows))])

    scores = create_detector("kde").fit(widen(problem.features)).score(widen(problem.queries))
    np.testing.assert_allclose(scores, scores_of(fitted("kde", problem), problem), rtol=1e-7)


@pytest.mark.parametrize(
    "parameters",
    [
        {"dim": 0},
        {"explained_variance": 1.0},
        {"dim": 2, "explained_variance": 0.5},
        {"bandwidth": 0},
        {"bank_size": 0},
        {"seed": 1.0},
    ],
)
def test_parameters_out_of_range(parameters):
    with pytest.raises(UserError, match="'kde': "):
        create_detector("kde", **parameters)
