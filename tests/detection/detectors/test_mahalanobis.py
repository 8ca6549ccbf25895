from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import EmpiricalCovariance

from ood_nc.detection import create_detector
from tests.detection.agreement import PROBLEMS, agreement_test, fitted, peer, peer_tensors, scores_of


def oracle(problem, normalize=False):
    train, labels, queries = problem.exact()
    if normalize:
        train, queries = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (train, queries))
    means = np.stack([train[labels == c].mean(axis=0) for c in range(labels.max() + 1)])
    covariance = EmpiricalCovariance(assume_centered=True).fit(train - means[labels]).covariance_
    # scikit-learn's own inverse cuts at 1e-10 absolute, which is not ours.
    precision = np.linalg.pinv(covariance, rcond=1e-12, hermitian=True)
    return np.array([-min(mahalanobis(q, mean, precision) ** 2 for mean in means) for q in queries])


test_agreement = agreement_test("mahalanobis", oracle, {}, {"normalize": True})


def test_as_pytorch_ood_up_to_its_scale():
    # Theirs is half the distance under the scatter (not divided by N), with a ridge of 1e-6 added to it.
    problem = PROBLEMS[0]
    data = peer_tensors(problem)
    theirs = peer("Mahalanobis")(None).fit_features(data["features"], data["labels"]).predict_features(data["queries"])
    scores = scores_of(fitted("mahalanobis", problem), problem)
    np.testing.assert_allclose(scores, -2 * len(problem.labels) * theirs, rtol=1e-4)


def test_collinear_points():
    # Field case 23: the covariance has rank 1; squared distances 1.5, 0, 1.5.
    rows = np.array([[1.0, 2], [3, 4], [5, 6]])
    detector = create_detector("mahalanobis").fit(rows, [0, 0, 0])
    assert detector.rank_ == 1
    np.testing.assert_allclose(detector.score(rows), [-1.5, 0, -1.5], atol=1e-12)


def test_dead_and_copied_columns():
    problem = PROBLEMS[0]
    expected = scores_of(fitted("mahalanobis", problem), problem)

    def widened(extra):
        detector = create_detector("mahalanobis").fit(
            np.column_stack([problem.features, extra(problem.features)]), problem.labels
        )
        return detector.score(np.column_stack([problem.queries, extra(problem.queries)])).numpy()

    np.testing.assert_allclose(widened(lambda rows: np.zeros(len(rows))), expected, rtol=1e-6)
    np.testing.assert_array_equal(np.argsort(widened(lambda rows: rows[:, 0])), np.argsort(expected))


@pytest.mark.parametrize("chunk", [7, 64])
def test_fitted_in_chunks(chunk, monkeypatch):
    problem = PROBLEMS[0]
    expected = scores_of(fitted("mahalanobis", problem), problem)
    monkeypatch.setattr("ood_nc.detection.kit.linalg.CHUNK", chunk)
    np.testing.assert_allclose(scores_of(fitted("mahalanobis", problem), problem), expected, rtol=1e-6)


def test_row_close_to_a_far_mean_keeps_its_digits():
    rng = np.random.default_rng(0)
    means = np.array([[0.0, 0], [1e6, 0]])
    labels = np.arange(400) % 2
    detector = create_detector("mahalanobis").fit(means[labels] + rng.normal(size=(400, 2)), labels)
    near, far = means + 0.5
    np.testing.assert_allclose(*(detector.score(torch.from_numpy(x[None])) for x in (near, far)), rtol=0.2)
