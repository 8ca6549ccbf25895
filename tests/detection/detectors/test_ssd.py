from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import EmpiricalCovariance

from ood_nc.detection import MissingInputError, create_detector
from ood_nc.errors import UserError
from tests.detection.agreement import PROBLEMS, agreement_test, fitted, scores_of


def distances(groups, queries):
    """Smallest squared distance to a group, each with its own mean and covariance."""
    found = []
    for group in groups:
        precision = np.linalg.pinv(EmpiricalCovariance().fit(group).covariance_, rcond=1e-12, hermitian=True)
        found.append([mahalanobis(q, group.mean(axis=0), precision) ** 2 for q in queries])
    return np.min(found, axis=0)


def oracle(problem, clusters=1):
    train, labels, queries = problem.exact()
    train, queries = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (train, queries))
    return -distances([train] if clusters == 1 else [train[labels == c] for c in range(labels.max() + 1)], queries)


test_agreement = agreement_test("ssd", oracle, {}, {"clusters": None})


def test_one_cluster_is_the_background_of_normalised_features():
    # OpenOOD's ssd is one Gaussian too, but leaves out the normalisation.
    problem = PROBLEMS[0]
    train, _, queries = (np.asarray(part) for part in problem.exact())
    train, queries = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (train, queries))
    expected = EmpiricalCovariance().fit(train).mahalanobis(queries)
    np.testing.assert_allclose(scores_of(fitted("ssd", problem), problem), -expected, rtol=1e-5)


def test_well_separated_clusters_are_found():
    # As many clusters as classes: k-means finds these, so the labels make no difference.
    problem = PROBLEMS[1]
    expected = oracle(problem, clusters=None)
    for seed in range(50):
        detector = create_detector("ssd", clusters=5, seed=seed).fit(problem.features)
        scores = detector.score(problem.queries).numpy()
        if np.allclose(scores, expected, rtol=1e-5):
            break
    else:
        pytest.fail("no seed finds the classes")


def test_seeded():
    problem = PROBLEMS[0]
    first, again = (create_detector("ssd", clusters=7, seed=3).fit(problem.features) for _ in range(2))
    assert (first.means_ == again.means_).all()


def test_zero_column_changes_no_score():
    # Field case 23.
    problem = PROBLEMS[0]

    def widen(rows):
        return np.column_stack([rows, np.zeros(len(rows))])

    detector = create_detector("ssd", clusters=None).fit(widen(problem.features), problem.labels)
    expected = scores_of(fitted("ssd", problem, clusters=None), problem)
    np.testing.assert_allclose(detector.score(widen(problem.queries)), expected, rtol=1e-7)


def test_classes_as_clusters_need_labels():
    with pytest.raises(MissingInputError, match="'ssd' lacks labels in fit"):
        create_detector("ssd", clusters=None).fit(PROBLEMS[0].features)


@pytest.mark.parametrize("parameters", [{"clusters": 0}, {"clusters": 1.5}, {"seed": None}])
def test_parameters_out_of_range(parameters):
    with pytest.raises(UserError, match="'ssd': "):
        create_detector("ssd", **parameters)


def test_more_clusters_than_samples():
    with pytest.raises(UserError, match="4 clusters are more than the 3 samples"):
        create_detector("ssd", clusters=4).fit(np.eye(3))
