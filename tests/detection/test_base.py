from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone

from ood_nc.detection import MissingInputError, TapQueries, TapStatistics, create_detector
from ood_nc.errors import NotFittedError, UserError
from tests.detection.agreement import PROBLEMS, fitted, scores_of

PROBLEM = PROBLEMS[0]


def test_scikit_learn_can_clone():
    detector = create_detector("nci", alpha=0.5)
    twin = clone(detector)
    assert twin is not detector
    assert repr(twin) == "NeuralCollapseInspired(alpha=0.5)"


def test_not_fitted_and_forgotten_after_a_failed_fit():
    detector = create_detector("etf_cosine")
    with pytest.raises(NotFittedError, match="'etf_cosine' is not fitted"):
        detector.score(PROBLEM.queries)
    detector.fit(PROBLEM.features, PROBLEM.labels)
    assert detector.is_fitted
    with pytest.raises(UserError, match="no simplex ETF"):
        detector.fit(PROBLEM.features, np.zeros(len(PROBLEM.labels), dtype=int))
    assert not detector.is_fitted


def test_missing_logits_are_named():
    with pytest.raises(MissingInputError, match=r"'energy' lacks logits in score; it requires logits\.") as caught:
        create_detector("energy").score(PROBLEM.queries)
    assert caught.value.missing == {"logits"}
    with pytest.raises(UserError, match="Neither features nor logits"):
        create_detector("energy").score(None)


def test_state_of_another_detector_or_format():
    state = fitted("energy", PROBLEM).state_dict()
    with pytest.raises(UserError, match="This state is of detector 'energy', not of 'msp'"):
        create_detector("msp").load_state_dict(state)
    with pytest.raises(UserError, match="state format 99"):
        create_detector("energy").load_state_dict({**state, "format": 99})


@pytest.mark.parametrize("name", ["knn", "vim"])
def test_pickles(name):
    detector = fitted(name, PROBLEM)
    np.testing.assert_array_equal(
        scores_of(pickle.loads(pickle.dumps(detector)), PROBLEM), scores_of(detector, PROBLEM)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": np.ones((10, 49, 64))}, "Pool feature maps or tokens"),
        ({"features": np.ones((4, 3)), "labels": [0, 1]}, "labels has 2 entries for 4 samples"),
        ({"features": np.ones((4, 3)), "labels": [0, 1, -1, 0]}, "got -1 in entry 2"),
        ({"features": np.ones((2, 3)), "labels": [0, 2], "logits": np.ones((2, 2))}, r"in 0\.\.1, got 2 in entry 1"),
        ({"features": np.ones((2, 3)), "labels": [5, 0], "head": (np.ones((2, 3)), None)}, r"in 0\.\.1, got 5"),
        ({"features": np.ones((4, 3)), "logits": np.ones((5, 2))}, "4 feature rows and 5 logit rows"),
        ({"features": np.ones((0, 3))}, "no train samples"),
        ({"features": np.ones((4, 3)), "head": (np.ones((2, 5)), None)}, "reads 5 features per sample, the tap has 3"),
        ({"features": np.ones((4, 3)), "head": (np.ones((2, 3)), np.ones(3))}, r"head bias must have shape \(2,\)"),
    ],
)
def test_inputs_that_do_not_fit(arguments, message):
    with pytest.raises(UserError, match=message):
        TapStatistics(**arguments)


def test_absent_context_is_named():
    queries = TapQueries(None, logits=np.ones((2, 3)))
    for attribute, message in (("features", "No features"), ("head", "No head")):
        with pytest.raises(UserError, match=message):
            getattr(queries, attribute)
    with pytest.raises(UserError, match="No labels"):
        _ = TapStatistics(np.ones((2, 3))).labels
    assert len(queries) == 2


def test_queries_of_another_width_than_the_head():
    detector = create_detector("energy").fit(PROBLEM.features, head=PROBLEM.head)
    with pytest.raises(UserError, match="reads 16 features per sample, the tap has 15"):
        detector.score(PROBLEM.queries[:, :15])


def test_nonnegative_is_checked():
    with pytest.raises(UserError, match="'ash_s' needs non-negative"):
        TapQueries(np.array([[1.0, -2.0]])).check_nonnegative("ash_s")
    TapQueries(np.array([[1.0, 0.0]])).check_nonnegative("ash_s")


def test_shared_queries_keep_heads_apart():
    # A head fitted into one detector must not give logits to another that was fitted without.
    queries = TapQueries(PROBLEM.queries)
    weight = PROBLEM.weight
    first = create_detector("energy").fit(PROBLEM.features, head=(weight, None)).score(queries)
    second = create_detector("energy").fit(PROBLEM.features, head=(2 * weight, None)).score(queries)
    assert (first != second).all()
    with pytest.raises(MissingInputError):
        create_detector("energy").score(queries)


def test_statistics_against_numpy():
    train, labels, _ = PROBLEM.exact()
    keep = labels != 2
    train, labels = train[keep] + 1e4, labels[keep]
    found = TapStatistics(train, labels)
    means = np.stack([train[labels == c].mean(axis=0) for c in (0, 1, 3, 4)])
    assert found.classes.tolist() == [0, 1, 3, 4]
    np.testing.assert_allclose(found.class_means, means)
    np.testing.assert_allclose(found.global_mean, means.mean(axis=0))
    np.testing.assert_allclose(found.covariance, np.cov(train.T, bias=True), rtol=1e-8, atol=1e-9)
    within = sum((labels == c).sum() * np.cov(train[labels == c].T, bias=True) for c in (0, 1, 3, 4)) / len(train)
    np.testing.assert_allclose(found.within_covariance, within, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(TapStatistics(train).covariance, found.covariance, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(found.eigen.values, np.linalg.eigvalsh(found.covariance)[::-1], rtol=1e-9)
    np.testing.assert_allclose(found.probabilities.sum(dim=1) if found.has_head else 1, 1)


def test_logit_context_against_scipy():
    from scipy.special import logsumexp, softmax

    logits = PROBLEM.logits(PROBLEM.queries)
    queries = TapQueries(PROBLEM.queries, head=PROBLEM.head)
    np.testing.assert_allclose(queries.logits, logits)
    np.testing.assert_allclose(queries.probabilities, softmax(logits, axis=1))
    np.testing.assert_allclose(queries.log_sum_exp, logsumexp(logits, axis=1))
    assert queries.predictions.tolist() == logits.argmax(axis=1).tolist()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_normalisation_of_extreme_rows(scale):
    from ood_nc.detection.kit.linalg import safe_normalize

    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64) * scale**6 ** (scale < 1)
    np.testing.assert_allclose(safe_normalize(rows), [[0.6, 0.8], [0, 0]])
