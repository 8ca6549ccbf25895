from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from ood_nc.detection import create_detector
from ood_nc.errors import UserError
from tests.detection.agreement import PROBLEMS, agreement_test


def oracle(problem, center=False):
    train, labels, queries = problem.exact()
    means = np.stack([train[labels == c].mean(axis=0) for c in range(labels.max() + 1)])
    origin = means.mean(axis=0) if center else 0
    return cosine_similarity(queries - origin, means - origin).max(axis=1)


test_agreement = agreement_test("class_mean_cosine", oracle, {}, {"center": True})


def test_zero_feature_scores_zero():
    problem = PROBLEMS[0]
    detector = create_detector("class_mean_cosine").fit(problem.features, problem.labels)
    assert detector.score(np.zeros((1, 16))).tolist() == [0.0]


def test_collapsed_cosines_keep_their_order():
    # All cosines are 1 - 1e-9 or so: one value in float32.
    angles = np.linspace(1e-5, 1e-4, 8)
    detector = create_detector("class_mean_cosine").fit([[1.0, 0.0]], [0])
    scores = detector.score(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    assert (scores.diff() < 0).all()
    assert len(set(scores.float().tolist())) < 8


def test_center_must_be_a_flag():
    with pytest.raises(UserError, match="center must be True or False, got 1"):
        create_detector("class_mean_cosine", center=1)
