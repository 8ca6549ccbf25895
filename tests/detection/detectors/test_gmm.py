from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture

from ood_nc.detection import create_detector
from ood_nc.errors import UserError
from tests.detection.agreement import PROBLEMS, agreement_test, fitted, peer, peer_tensors, scores_of


def class_covariances(train, labels, covariance, shrinkage):
    means = np.stack([train[labels == c].mean(axis=0) for c in range(labels.max() + 1)])
    tied = np.cov((train - means[labels]).T, bias=True)
    own = [np.cov(train[labels == c].T, bias=True) for c in range(len(means))]
    mixed = [tied if covariance == "tied" else (1 - shrinkage) * s + shrinkage * tied for s in own]
    return means, [np.diag(np.diag(s)) if covariance == "diag" else s for s in mixed]


def oracle(problem, covariance="tied", shrinkage=0.1):
    train, labels, queries = problem.exact()
    means, covariances = class_covariances(train, labels, covariance, shrinkage)
    log_densities = [
        # Directions below 1e-12 of the largest variance are left out of density and distance.
        multivariate_normal(mean, matrix, allow_singular=True).logpdf(queries)
        if np.linalg.matrix_rank(matrix, hermitian=True) == len(mean)
        else singular_log_density(queries, mean, matrix)
        for mean, matrix in zip(means, covariances, strict=True)
    ]
    return logsumexp(np.stack(log_densities, axis=1) + np.log(np.bincount(labels) / len(labels)), axis=1)


def singular_log_density(queries, mean, matrix):
    values, vectors = np.linalg.eigh(matrix)
    kept = values > 1e-12 * values.max()
    rows = (queries - mean) @ vectors[:, kept]
    return -0.5 * (rows**2 / values[kept] + np.log(2 * np.pi * values[kept])).sum(axis=1)


test_agreement = agreement_test(
    "gmm", oracle, {}, {"covariance": "diag"}, {"covariance": "full"}, {"covariance": "full", "shrinkage": 0.7}
)


@pytest.mark.parametrize("covariance", ["tied", "diag", "full"])
def test_as_scikit_learn_at_the_class_statistics(covariance):
    # scikit-learn's density with the parameters set instead of found by EM.
    problem = PROBLEMS[0]
    train, labels, queries = problem.exact()
    shrinkage = 1e-9
    means, matrices = class_covariances(train, labels, covariance, shrinkage)
    model = GaussianMixture(len(means), covariance_type=covariance)
    model.weights_, model.means_ = np.bincount(labels) / len(labels), means
    precisions = [np.linalg.inv(matrix) for matrix in matrices]
    model.precisions_cholesky_ = {
        "tied": lambda: np.linalg.cholesky(precisions[0]),
        "diag": lambda: np.sqrt([np.diag(p) for p in precisions]),
        "full": lambda: np.stack([np.linalg.cholesky(p) for p in precisions]),
    }[covariance]()
    scores = scores_of(fitted("gmm", problem, covariance=covariance, shrinkage=shrinkage), problem)
    np.testing.assert_allclose(scores, model.score_samples(queries), rtol=1e-5)


def test_as_pytorch_ood():
    # Theirs is the full covariance of each class with a ridge of 1e-6; shrinkage to nothing is the same here.
    problem = PROBLEMS[0]
    data = peer_tensors(problem)
    theirs = peer("GMM")(None).fit_features(data["features"], data["labels"]).predict_features(data["queries"])
    scores = scores_of(fitted("gmm", problem, covariance="full", shrinkage=1e-9), problem)
    np.testing.assert_allclose(scores, -theirs, rtol=1e-4)


@pytest.mark.parametrize("covariance", ["tied", "diag", "full"])
def test_zero_column_changes_no_score(covariance):
    # Field case 23; a query that deviates there changes nothing either.
    problem = PROBLEMS[0]
    expected = scores_of(fitted("gmm", problem, covariance=covariance), problem)
    detector = create_detector("gmm", covariance=covariance)
    detector.fit(np.column_stack([problem.features, np.zeros(300)]), problem.labels)
    assert detector.rank_ == 16
    scores = detector.score(np.column_stack([problem.queries, np.full(80, 3.0)]))
    np.testing.assert_allclose(scores, expected, rtol=1e-7)


@pytest.mark.parametrize("covariance", ["tied", "full"])
def test_copied_column_changes_no_ranking(covariance):
    problem = PROBLEMS[0]
    expected = scores_of(fitted("gmm", problem, covariance=covariance), problem)
    detector = create_detector("gmm", covariance=covariance)
    detector.fit(np.column_stack([problem.features, problem.features[:, 0]]), problem.labels)
    scores = detector.score(np.column_stack([problem.queries, problem.queries[:, 0]])).numpy()
    np.testing.assert_array_equal(np.argsort(scores), np.argsort(expected))


def test_collinear_points():
    # Field case 23: the covariance has rank 1, and 16/3 is its only variance; squared distances 1.5, 0, 1.5.
    rows = np.array([[1.0, 2], [3, 4], [5, 6]])
    for covariance in ("tied", "full"):
        detector = create_detector("gmm", covariance=covariance).fit(rows, [0, 0, 0])
        assert detector.rank_ == 1
        expected = -np.array([1.5, 0, 1.5]) / 2 - np.log(2 * np.pi * 16 / 3) / 2
        np.testing.assert_allclose(detector.score(rows), expected, rtol=1e-9)


@pytest.mark.parametrize("covariance", ["tied", "diag", "full"])
def test_fitted_in_two_chunks(covariance, monkeypatch):
    problem = PROBLEMS[1]
    expected = scores_of(fitted("gmm", problem, covariance=covariance), problem)
    monkeypatch.setattr("ood_nc.detection.kit.linalg.CHUNK", 150)
    np.testing.assert_allclose(scores_of(fitted("gmm", problem, covariance=covariance), problem), expected, rtol=1e-6)


@pytest.mark.parametrize("covariance", ["diag", "full"])
def test_classes_of_one_sample_are_regular(covariance):
    detector = create_detector("gmm", covariance=covariance).fit(
        np.array([[0.0, 0], [1, 2], [-1, -2], [9, 9]]), [0, 0, 0, 1]
    )
    assert detector.score([[9.0, 9.0], [0.0, 0.0], [40.0, -40.0]]).isfinite().all()


@pytest.mark.parametrize("parameters", [{"covariance": "spherical"}, {"shrinkage": 0}, {"shrinkage": 1.0}])
def test_parameters_out_of_range(parameters):
    with pytest.raises(UserError, match="'gmm': "):
        create_detector("gmm", **parameters)


@pytest.mark.parametrize("covariance", ["tied", "diag"])
def test_rows_close_to_a_far_mean_keep_their_digits(covariance):
    # The squared norms are 1e16: products alone leave the distances no digit.
    means = np.array([[-1e8, 0], [1e8, 0]])
    labels = np.arange(8) % 2
    # Around each mean the same four points, of variance 1 in each direction.
    around = np.repeat(np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]), 2, axis=0)
    detector = create_detector("gmm", covariance=covariance).fit(means[labels] + around, labels)
    offsets = np.array([[0.0, 0], [0.5, 0.25], [1, 2]])
    expected = -(offsets**2).sum(axis=1) / 2 - np.log(2 * np.pi) - np.log(2)
    for mean in means:
        np.testing.assert_allclose(detector.score(mean + offsets), expected, rtol=1e-6)
