from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import EmpiricalCovariance

from ood_nc.detection import create_detector
from tests.detection.agreement import PROBLEMS, agreement_test, fitted, peer, peer_tensors, scores_of


def oracle(problem):
    train, labels, queries = problem.exact()
    means = np.stack([train[labels == c].mean(axis=0) for c in range(labels.max() + 1)])
    within = EmpiricalCovariance(assume_centered=True).fit(train - means[labels]).covariance_
    background = EmpiricalCovariance().fit(train).covariance_
    # scikit-learn's own inverse cuts at 1e-10 absolute, which is not ours.
    precision, whole = (np.linalg.pinv(c, rcond=1e-12, hermitian=True) for c in (within, background))
    return np.array(
        [
            mahalanobis(q, train.mean(axis=0), whole) ** 2 - min(mahalanobis(q, m, precision) ** 2 for m in means)
            for q in queries
        ]
    )


test_agreement = agreement_test("relative_mahalanobis", oracle)


def test_as_pytorch_ood_up_to_its_scale():
    # Theirs divides neither scatter by N, so their score is 1/N of ours, with a ridge of 1e-6 added to each scatter.
    problem = PROBLEMS[0]
    data = peer_tensors(problem)
    theirs = peer("RMD")(None).fit_features(data["features"], data["labels"])
    scores = scores_of(fitted("relative_mahalanobis", problem), problem)
    np.testing.assert_allclose(
        scores, -len(problem.labels) * theirs.predict_features(data["queries"]), rtol=1e-3, atol=1e-3
    )


def test_the_background_is_a_covariance_not_a_scatter():
    # With the scatter the background term is 1/N of itself and the score is plain Mahalanobis.
    problem = PROBLEMS[0]
    plain = scores_of(fitted("mahalanobis", problem), problem)
    background = scores_of(fitted("relative_mahalanobis", problem), problem) - plain
    assert background.min() > 1
    assert np.ptp(background) > 10


def test_a_single_class_has_no_relative_distance():
    problem = PROBLEMS[0]
    detector = create_detector("relative_mahalanobis").fit(problem.features, np.zeros(300, dtype=int))
    np.testing.assert_allclose(detector.score(problem.queries), 0, atol=1e-8)


def test_dead_and_copied_columns():
    # Field case 23.
    problem = PROBLEMS[0]
    expected = scores_of(fitted("relative_mahalanobis", problem), problem)

    def widened(extra):
        detector = create_detector("relative_mahalanobis").fit(
            np.column_stack([problem.features, extra(problem.features)]), problem.labels
        )
        assert (detector.rank_, detector.background_rank_) == (16, 16)
        return detector.score(np.column_stack([problem.queries, extra(problem.queries)])).numpy()

    np.testing.assert_allclose(widened(lambda rows: np.zeros(len(rows))), expected, rtol=1e-9)
    np.testing.assert_array_equal(np.argsort(widened(lambda rows: rows[:, 0])), np.argsort(expected))


@pytest.mark.parametrize("chunk", [7, 64])
def test_fitted_in_chunks(chunk, monkeypatch):
    problem = PROBLEMS[1]
    expected = scores_of(fitted("relative_mahalanobis", problem), problem)
    monkeypatch.setattr("ood_nc.detection.kit.linalg.CHUNK", chunk)
    np.testing.assert_allclose(scores_of(fitted("relative_mahalanobis", problem), problem), expected, rtol=1e-7)


def classes_of(dim, count, spread, within=1.0, seed=0):
    """Training rows, labels and queries around ``count`` means, within-class deviations falling to ``within``."""
    generator = np.random.default_rng(seed)
    means, scales = generator.normal(size=(count, dim)) * spread, np.geomspace(1, within, dim)
    labels = np.arange(100 * count) % count
    rows = means[labels] + generator.normal(size=(len(labels), dim)) * scales
    queries = np.concatenate([rows[:50], 5 * generator.normal(size=(50, dim)), 1e3 * generator.normal(size=(10, dim))])
    return rows, labels, queries


@pytest.mark.parametrize(
    ("problem", "cancels"),
    [
        ({"dim": 20, "count": 5, "spread": 2.0}, True),
        ({"dim": 20, "count": 10, "spread": 10.0, "within": 0.1}, True),
        ({"dim": 20, "count": 11, "spread": 2.0}, False),  # no fewer directions
        ({"dim": 20, "count": 5, "spread": 1e5}, False),  # collapsed: what cancels is all there is
        ({"dim": 20, "count": 5, "spread": 2.0, "within": 3e-6}, False),  # nearly singular
    ],
)
def test_what_cancels_is_left_out_where_it_makes_no_difference(problem, cancels, monkeypatch):
    rows, labels, queries = classes_of(**problem)
    detector = create_detector("relative_mahalanobis").fit(rows, labels)
    assert (detector.directions_ is not None) == cancels
    assert (detector.rank_, detector.background_rank_) == (20, 20)
    monkeypatch.setattr(type(detector), "_cancelled", lambda *_: None)
    whole = create_detector("relative_mahalanobis").fit(rows, labels)
    np.testing.assert_allclose(detector.score(queries), whole.score(queries), rtol=1e-7, atol=1e-7)
