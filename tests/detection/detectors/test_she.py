from __future__ import annotations

import numpy as np
import pytest
import torch

from ood_nc.detection import create_detector
from ood_nc.errors import UserError
from tests.detection.agreement import PROBLEMS, agreement_test, fitted, peer, peer_tensors, scores_of


def oracle(problem, metric="inner_product"):
    train, labels, queries = problem.exact()
    predicted = problem.logits(problem.features).argmax(axis=1)
    patterns = []
    for c in range(labels.max() + 1):
        own = train[(labels == c) & (predicted == c)]
        patterns.append((own if len(own) else train[labels == c]).mean(axis=0))
    scores = []
    for query, y in zip(queries, problem.logits(problem.queries).argmax(axis=1), strict=True):
        pattern = patterns[y]
        if metric == "inner_product":
            scores.append(query @ pattern)
        elif metric == "cosine":
            scores.append(query @ pattern / np.linalg.norm(query) / np.linalg.norm(pattern))
        else:
            scores.append(-np.linalg.norm(query - pattern))
    return np.array(scores)


test_agreement = agreement_test("she", oracle, {}, {"metric": "cosine"}, {"metric": "euclidean"})


def test_as_pytorch_ood():
    # A class without a correct sample makes theirs refuse, and OpenOOD score NaN.
    problem = PROBLEMS[0]
    data = peer_tensors(problem)
    head = torch.nn.Linear(*reversed(problem.weight.shape))
    head.weight.data, head.bias.data = data["weight"], data["bias"]
    theirs = peer("SHE")(None, head).fit_features(data["features"], data["labels"])
    expected = -theirs.predict_features(data["queries"]).detach()
    np.testing.assert_allclose(scores_of(fitted("she", problem), problem), expected, rtol=1e-4, atol=1e-4)


def test_class_without_a_correct_sample_uses_all_of_its_own():
    rows, labels = np.array([[1.0, 0], [3.0, 0], [0, 2.0]]), [0, 0, 1]
    logits = np.array([[0.0, 1, 0], [0.0, 1, 0], [0.0, 1, 0]])
    detector = create_detector("she").fit(rows, labels, logits=logits)
    assert detector.patterns_.tolist() == [[2, 0], [0, 2], [0, 0]]
    assert detector.score([[1.0, 1.0]], logits=[[1.0, 0, 0]]).tolist() == [2.0]


def test_only_correct_samples_make_the_pattern():
    rows, labels = np.array([[1.0, 0], [3.0, 0]]), [0, 0]
    detector = create_detector("she").fit(rows, labels, logits=[[1.0, 0], [0, 1.0]])
    assert detector.patterns_[0].tolist() == [1.0, 0]


def test_metric_must_be_known():
    with pytest.raises(UserError, match="metric must be one of"):
        create_detector("she", metric="l1")
