from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from ood_nc.detection import create_detector
from tests.detection.agreement import agreement_test, fitted, peer, peer_tensors, scores_of
from tests.detection.detectors.relu import RELU_PROBLEMS
from tests.detection.detectors.test_scale import factor


def oracle(problem, percentile=95.0):
    _, _, queries = problem.exact()
    scaled = [
        logits * factor(row, percentile) ** 2 for row, logits in zip(queries, problem.logits(queries), strict=True)
    ]
    return logsumexp(np.array(scaled), axis=1)


test_agreement = agreement_test("lts", oracle, {}, {"percentile": 65.0}, problems=RELU_PROBLEMS)


@pytest.mark.parametrize("problem", [RELU_PROBLEMS[0], RELU_PROBLEMS[2]], ids=lambda problem: problem.name)
def test_as_pytorch_ood(problem):
    data = peer_tensors(problem)
    head = torch.nn.Linear(*reversed(problem.weight.shape))
    head.weight.data, head.bias.data = data["weight"], data["bias"]
    expected = -peer("LTS")(None, head, p=0.05).predict_features(data["queries"])
    np.testing.assert_allclose(scores_of(fitted("lts", problem), problem), expected, rtol=1e-4, atol=1e-3)


def test_without_fit_on_logits_that_are_given():
    # Row sum 10 over its largest, 5: the logits times 4.
    score = create_detector("lts").score([[5.0, 3, 2]], logits=[[0.0, 1.0]])
    assert score.item() == pytest.approx(logsumexp([0, 4]))
