from __future__ import annotations

import numpy as np
from sklearn.metrics.pairwise import cosine_similarity

from ood_nc.detection import create_detector
from tests.detection.agreement import PROBLEMS, agreement_test


def oracle(problem):
    return cosine_similarity(problem.queries.astype(np.float64), problem.weight.astype(np.float64)).max(axis=1)


test_agreement = agreement_test("max_cosine", oracle)


def test_neither_bias_nor_norms_matter():
    problem = PROBLEMS[0]
    expected = create_detector("max_cosine").fit(problem.features, head=(problem.weight, None)).score(problem.queries)
    sizes = np.arange(1, 1 + len(problem.weight), dtype=np.float32)[:, None]
    scores = create_detector("max_cosine").fit(problem.features, head=(problem.weight * sizes, problem.bias))
    np.testing.assert_allclose(scores.score(problem.queries * 7), expected, rtol=1e-6)


def test_zero_feature_and_zero_weight():
    detector = create_detector("max_cosine").fit(np.eye(2), head=([[0.0, 0], [2, 0]], None))
    np.testing.assert_allclose(detector.score([[0.0, 0], [3, 4], [-1, 0], [1e-30, 0]]), [0, 0.6, 0, 1])
