from __future__ import annotations

import numpy as np
import pytest
import torch

from ood_nc.detection import MissingInputError, create_detector
from ood_nc.errors import UserError
from tests.detection.agreement import PROBLEMS, agreement_test, fitted, peer, peer_tensors, scores_of


def oracle(problem, normalizer="distance"):
    train, _, queries = problem.exact()
    weight, logits = problem.weight.astype(np.float64), problem.logits(queries)
    center = train.mean(axis=0) if normalizer == "distance" else 0
    scores = []
    for query, own in zip(queries, logits, strict=True):
        y = own.argmax()
        distances = [(own[y] - own[c]) / np.linalg.norm(weight[y] - weight[c]) for c in range(len(weight)) if c != y]
        scores.append(np.mean(distances) / np.linalg.norm(query - center))
    return np.array(scores)


test_agreement = agreement_test("fdbd", oracle, {}, {"normalizer": "norm"})


def test_as_pytorch_ood():
    # OpenOOD sums over the classes where the paper and pytorch-ood average; the ranking is the same.
    problem = PROBLEMS[0]
    data = peer_tensors(problem)
    head = torch.nn.Linear(*reversed(problem.weight.shape))
    head.weight.data, head.bias.data = data["weight"], data["bias"]
    theirs = peer("fDBD")(None, head).fit_features(data["features"]).predict_features(data["queries"])
    np.testing.assert_allclose(scores_of(fitted("fdbd", problem), problem), -theirs, rtol=1e-4)


def test_it_is_the_distance_to_the_boundary():
    # Two classes, boundary x = 1: the point (3, 0) is 2 away from it and 3 from the mean.
    weight, bias = np.array([[1.0, 0], [-1.0, 0]]), np.array([-1.0, 1.0])
    detector = create_detector("fdbd").fit(np.array([[-1.0, 0], [1.0, 0]]), head=(weight, bias))
    assert detector.score([[3.0, 0.0]]).item() == pytest.approx(2 / 3)


def test_classes_with_one_weight_have_no_boundary():
    weight = np.array([[1.0, 0], [1.0, 0], [0, 1.0]])
    detector = create_detector("fdbd", normalizer="norm").fit(np.ones((3, 2)), head=(weight, np.array([0, 5.0, 0])))
    # Only the boundary between classes 1 and 2 counts: (6 - 0) / sqrt(2), over 2 others.
    assert detector.score([[1.0, 0.0]]).item() == pytest.approx(6 / np.sqrt(2) / 2)


def test_no_bias_is_a_zero_bias():
    # Field case 26.
    problem = PROBLEMS[0]
    scores = [
        create_detector("fdbd").fit(problem.features, head=(problem.weight, bias)).score(problem.queries)
        for bias in (None, np.zeros(5, dtype=np.float32))
    ]
    assert (scores[0] == scores[1]).all()
    with pytest.raises(MissingInputError, match="'fdbd' lacks head in fit; it requires features, head, logits"):
        create_detector("fdbd").fit(problem.features, logits=problem.logits(problem.features))


def test_normalizer_must_be_known():
    with pytest.raises(UserError, match="normalizer must be one of 'distance', 'norm', got 'l2'"):
        create_detector("fdbd", normalizer="l2")
