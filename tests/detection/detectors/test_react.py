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
    threshold = np.percentile(train.ravel(), percentile)
    return logsumexp(problem.logits(np.minimum(queries, threshold)), axis=1)


test_agreement = agreement_test("react", oracle, {}, {"percentile": 60.0})


def test_as_pytorch_ood():
    problem = PROBLEMS[0]
    data = peer_tensors(problem)

    def head(features):
        return features @ data["weight"].T + data["bias"]

    theirs = peer("ReAct")(None, head, percentile=0.9).fit_feature_maps(data["features"], data["labels"])
    expected = -theirs.predict_feature_maps(data["queries"]).numpy()
    np.testing.assert_allclose(scores_of(fitted("react", problem), problem), expected, rtol=1e-5, atol=1e-5)


def test_a_threshold_above_all_is_the_energy():
    problem = PROBLEMS[0]
    queries = problem.features[:20]
    detector = create_detector("react", percentile=99.999999).fit(problem.features, head=problem.head)
    energy = create_detector("energy").score(None, logits=problem.logits(queries))
    np.testing.assert_allclose(detector.score(queries), energy, rtol=1e-6)


def test_no_bias_is_a_zero_bias():
    problem = PROBLEMS[0]
    scores = [
        create_detector("react").fit(problem.features, head=(problem.weight, bias)).score(problem.queries)
        for bias in (None, np.zeros(len(problem.weight)))
    ]
    assert torch.equal(*scores)


@pytest.mark.parametrize("value", [-1, 100, float("nan"), "90", None])
def test_percentile_out_of_range(value):
    with pytest.raises(UserError, match="'react': percentile must be a number of at least 0 and below 100"):
        create_detector("react", percentile=value)
