from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from ood_nc.detection import create_detector
from ood_nc.errors import UserError
from tests.detection.agreement import PROBLEMS, agreement_test, fitted, scores_of


def oracle(problem, dim=None, explained_variance=None, max_logit=True):
    train, _, queries = problem.exact()
    scaler = StandardScaler().fit(train)
    standardised = scaler.transform(train)
    pca = PCA(svd_solver="full").fit(standardised)
    if dim is None:
        explained = np.cumsum(pca.explained_variance_ratio_)
        dim = int(np.argmax(explained >= (explained_variance or 0.9))) + 1
    rows = scaler.transform(queries)
    ratio = np.linalg.norm(pca.transform(rows)[:, :dim], axis=1) / np.linalg.norm(rows, axis=1)
    return ratio * problem.logits(problem.queries).max(axis=1) if max_logit else ratio


test_agreement = agreement_test(
    "neco", oracle, {}, {"max_logit": False}, {"dim": 3, "max_logit": False}, {"explained_variance": 0.6}
)


def test_columns_constant_on_train_stay_zero():
    # Even a query that deviates there: it has no scale.
    problem = PROBLEMS[0]
    for value in (0.0, 0.1, 1e6):
        train = np.column_stack([problem.features, np.full(300, value)])
        detector = create_detector("neco").fit(train, logits=problem.logits(problem.features))
        queries = np.column_stack([problem.queries, np.full(80, 7.0)])
        scores = detector.score(queries, logits=problem.logits(problem.queries))
        np.testing.assert_allclose(scores, oracle(problem), rtol=1e-5)


def test_scaled_columns_change_nothing():
    problem = PROBLEMS[0]
    scales = np.logspace(-3, 3, 16)
    detector = create_detector("neco").fit(problem.features * scales, logits=problem.logits(problem.features))
    scores = detector.score(problem.queries * scales, logits=problem.logits(problem.queries))
    np.testing.assert_allclose(scores, scores_of(fitted("neco", problem), problem), rtol=1e-5)


def test_all_components_leave_the_largest_logit():
    problem = PROBLEMS[0]
    scores = scores_of(fitted("neco", problem, dim=16), problem)
    np.testing.assert_allclose(scores, problem.logits(problem.queries).max(axis=1), rtol=1e-9)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"dim": 0}, "dim must be a whole number of at least 1"),
        ({"explained_variance": 0}, "explained_variance must be"),
        ({"max_logit": 1}, "max_logit must be True or False"),
        ({"dim": 2, "explained_variance": 0.5}, "not both"),
    ],
)
def test_parameters_out_of_range(parameters, message):
    with pytest.raises(UserError, match=message):
        create_detector("neco", **parameters)


def test_more_components_than_features():
    with pytest.raises(UserError, match="dim 17 is more than the 16 features"):
        fitted("neco", PROBLEMS[0], dim=17)
