from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from ood_nc.detection import create_detector
from ood_nc.errors import UserError
from tests.detection.agreement import PROBLEMS, agreement_test, fitted, peer, peer_tensors, scores_of


def oracle(problem, percentile=90.0):
    train, _, queries = problem.exact()
    weight, bias = problem.weight.astype(np.float64), problem.bias.astype(np.float64)
    contributions = weight * train.mean(axis=0)
    threshold = np.percentile(contributions, percentile)
    logits = np.zeros((len(queries), len(weight))) + bias
    for c in range(len(weight)):
        for j in range(train.shape[1]):
            if contributions[c, j] > threshold:
                logits[:, c] += queries[:, j] * weight[c, j]
    return logsumexp(logits, axis=1)


test_agreement = agreement_test("dice", oracle, {}, {"percentile": 50.0}, {"percentile": 0.0})


def test_as_pytorch_ood():
    problem = PROBLEMS[0]
    data = peer_tensors(problem)
    theirs = peer("DICE")(None, data["weight"], data["bias"], p=0.9).fit_features(data["features"], data["labels"])
    expected = -theirs.predict_features(data["queries"])
    np.testing.assert_allclose(scores_of(fitted("dice", problem), problem), expected, rtol=1e-5, atol=1e-5)


def test_a_second_percentile_starts_from_the_whole_head():
    problem = PROBLEMS[0]
    detector = fitted("dice", problem, percentile=90.0)
    detector.set_params(percentile=10.0).fit(problem.features, head=problem.head)
    np.testing.assert_array_equal(
        scores_of(detector, problem), scores_of(fitted("dice", problem, percentile=10.0), problem)
    )


def test_no_bias_is_a_zero_bias():
    problem = PROBLEMS[0]
    scores = [
        create_detector("dice").fit(problem.features, head=(problem.weight, bias)).score(problem.queries)
        for bias in (None, np.zeros(len(problem.weight)))
    ]
    assert torch.equal(*scores)


def test_percentile_out_of_range():
    with pytest.raises(UserError, match="'dice': percentile must be a number of at least 0 and below 100"):
        create_detector("dice", percentile=100)
