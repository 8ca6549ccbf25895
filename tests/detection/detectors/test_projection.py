from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from ood_nc.detection import create_detector
from tests.detection.agreement import agreement_test


def oracle(problem):
    train, labels, queries = problem.exact()
    scores = []
    for query, p in zip(queries, softmax(problem.logits(queries), axis=1), strict=True):
        total = 0.0
        for c in range(labels.max() + 1):
            mean = train[labels == c].mean(axis=0)
            cosine = query @ mean / np.linalg.norm(query) / np.linalg.norm(mean)
            total += p[c] * np.linalg.norm(query) * cosine
        scores.append(total)
    return np.array(scores)


test_agreement = agreement_test("projection", oracle)


def test_a_class_without_samples_adds_nothing():
    detector = create_detector("projection").fit(np.eye(2), [0, 2], logits=np.zeros((2, 3)))
    assert detector.score([[3.0, 6.0]], logits=np.zeros((1, 3))).item() == pytest.approx(3)
